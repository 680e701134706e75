"""Making pictures with a base model and adapters, and laying them out on sheets."""
