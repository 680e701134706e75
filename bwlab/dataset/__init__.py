"""Training data: from image folders and captions to batches of latents."""
