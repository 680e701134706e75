"""Inspection of adapter files: contents per block, training and defects."""
