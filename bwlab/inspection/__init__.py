"""Inspection of adapter files: contents per block, how they were trained, and what is wrong with them."""
