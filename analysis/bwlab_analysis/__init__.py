"""The analysis of adapters: what each block learned, and where two adapters conflict."""
