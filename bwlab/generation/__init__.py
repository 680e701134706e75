"""Generation: sampling with a base model and adapters, and contact sheets of the images."""
