"""Adapter files of every dialect and algorithm: their keys, their modules and their bytes, read without torch."""
