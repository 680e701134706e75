"""What a training needs in memory, from shapes alone."""
