"""LyCORIS' adapter types as a bwlab plugin."""
