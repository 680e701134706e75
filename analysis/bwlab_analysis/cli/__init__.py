"""The commands of the analysis: `bwlab analyze` and `bwlab study`."""
