"""What adapters do to a base model's activations and losses, and to each other's."""
