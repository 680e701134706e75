"""The embedded base model: a small Stable Diffusion trained on emoji art, and its benchmark."""
