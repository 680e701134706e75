"""LoCon as a bwlab plugin."""
