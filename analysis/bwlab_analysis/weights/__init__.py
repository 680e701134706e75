"""Analysis of adapter weights: norms, spectra and conflict, without a base model."""
