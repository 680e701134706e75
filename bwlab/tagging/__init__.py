"""Tagging: captions of comma-separated tags for folders of images."""
