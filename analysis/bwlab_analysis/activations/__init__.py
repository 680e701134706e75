"""Analysis in a base model: activations, predictions and losses with and without adapters."""
