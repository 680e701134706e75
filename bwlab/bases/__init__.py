"""Base models from folders, from single files and from the hub."""
