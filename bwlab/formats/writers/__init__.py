"""Writers of adapter files, one module for each dialect that bwlab writes."""
