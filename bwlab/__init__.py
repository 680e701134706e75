"""Block-wise adapters for diffusion UNets: train, look inside, score, generate."""

from bwlab.api import Use, attach, blocks_of, generate, load_adapter, load_base, load_embedding
from bwlab.hookspecs import hookimpl

__version__ = "0.1.0"

__all__ = [
    "Use",
    "__version__",
    "attach",
    "blocks_of",
    "generate",
    "hookimpl",
    "load_adapter",
    "load_base",
    "load_embedding",
]
