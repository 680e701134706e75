"""Scores of how well generated images keep an identity, a style and the text."""
