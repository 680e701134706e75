"""Studies: plans of trainings, compositions, scores and measures, run job by job and taken up where they stopped."""
