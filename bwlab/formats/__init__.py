"""Adapter files: their keys, their bytes, and the kohya dialect that bwlab writes."""
