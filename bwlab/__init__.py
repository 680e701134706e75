"""Block-wise adapters for diffusion UNets: train, look inside, score, generate."""

__version__ = "0.1.0"
