"""Several adapters and words at work on one pipeline, each with its strength per block and per sampling step."""
