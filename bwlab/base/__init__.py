"""Base models: from folders, single files and the hub."""
