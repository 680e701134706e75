"""Block-wise adapters for diffusion UNets: train, look inside, score, generate."""

from bwlab.hookspecs import hookimpl

__version__ = "0.1.0"

__all__ = ["__version__", "hookimpl"]
