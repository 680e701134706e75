"""Low-rank deltas with orthonormal factors as a bwlab plugin."""
