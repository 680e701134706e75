"""Linear algebra on low-rank matrices that are kept as factors."""
