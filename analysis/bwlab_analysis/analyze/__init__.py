"""The analyses of `bwlab analyze` as functions: files, folders and prompts in, frozen results out.

The commands call these functions. Their arguments have the names of the options, which messages of errors name too.
Importing this package imports neither torch nor diffusers.
"""

from bwlab_analysis.analyze.adapters import activations, conflict, conflict_pairs, norms
from bwlab_analysis.analyze.compositions import fidelity, recommend
from bwlab_analysis.analyze.results import Activations, Analysis, Conflict, Fidelity, Norms, PairsInFile, Recommended

__all__ = [
    "Activations",
    "Analysis",
    "Conflict",
    "Fidelity",
    "Norms",
    "PairsInFile",
    "Recommended",
    "activations",
    "conflict",
    "conflict_pairs",
    "fidelity",
    "norms",
    "recommend",
]
