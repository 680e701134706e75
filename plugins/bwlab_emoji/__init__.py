"""Builds and measures the embedded base model, its ControlNet and its scorer."""
