"""Optimisers of training: how plugins describe them, and those that bwlab has."""
