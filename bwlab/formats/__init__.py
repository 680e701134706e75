"""Adapter files of every dialect and algorithm: their keys, modules and bytes, read without torch."""
