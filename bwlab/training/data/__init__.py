"""What an adapter is trained on: from files to batches of latents with captions."""
