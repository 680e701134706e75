"""LoRA as a bwlab plugin."""
