"""Benchmarks against peers; run them from the repository's root, as `python -m benchmarks.train_step`."""
