"""What the nodes do: load an adapter with a block spec, compare two adapters, and apply scales that bwlab advised."""

from __future__ import annotations

import io
import json
from typing import Any

from bwlab.errors import BwlabError

from .node import Input, Node, Output
from .patches import adapter_path, apply_adapter

SCALE = 'Block spec, such as "out3=1, mid=0.5, *=0", or one number; blocks that it does not name keep 1.'
SCHEMA = "bwlab.analyze.recommend"
WIDTH = 100

MODEL = Input("model", "MODEL", "The model that the adapter changes.")
CLIP = Input("clip", "CLIP", "The text encoders; without them, their modules in the file are left out.", optional=True)
PATCHED = (
    Output("model", "MODEL", "The changed model."),
    Output("clip", "CLIP", "The changed text encoders."),
)


def load(model: Any, adapter: str, scale: str, clip: Any = None) -> tuple[Any, Any]:
    """Return the model and the text encoders with an adapter, each block at its own scale."""
    return apply_adapter(model, clip, adapter_path(adapter), scale)


def conflict(first: str, second: str) -> tuple[Any, str]:
    """Return the overlap of two adapters' weights by block as an image `(1, height, width, 3)`, and all as text."""
    from rich.console import Console

    from bwlab_analysis import analyze
    from bwlab_analysis.report.plots import plot_conflict
    from bwlab_analysis.report.show import print_presentation

    comparison = analyze.conflict(adapter_path(first), adapter_path(second))
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, highlight=False, markup=False, emoji=False)
    with console.capture() as text:
        print_presentation(console, comparison.presentation(), details=True)
    (report, _), *_ = comparison.pairs
    return as_image(plot_conflict(report)), text.get()


def apply_advice(model: Any, identity: str, style: str, advice: str, clip: Any = None) -> tuple[Any, Any, str]:
    """Return the model and the text encoders with two adapters at the scales of `bwlab analyze recommend --json`."""
    specs, verdict = advised(advice)
    for name, spec in zip((identity, style), specs, strict=True):
        model, clip = apply_adapter(model, clip, adapter_path(name), spec)
    lines = (f"identity {identity}: {specs[0]}", f"style {style}: {specs[1]}", verdict)
    return model, clip, "\n".join(lines)


def advised(text: str) -> tuple[tuple[str, str], str]:
    """Return the specs of the identity and of the style, and the verdict, of bwlab's JSON.

    Args:
        text: what `bwlab analyze recommend --json` or `bwlab analyze conflict --advise --json` printed.

    Raises:
        BwlabError: the text is something else, or advises a schedule, which patches cannot follow.

    """
    asked = "reading the advice"
    fix = f"Paste what 'bwlab analyze recommend A B --json' printed ({SCHEMA})"
    try:
        document = json.loads(text)
        document = document.get("advice", document)
        specs, schedules = document["specs"], document["schedules"]
        advice = (str(specs["identity"]), str(specs["style"])), str(document["verdict"])
        if document["schema"] != SCHEMA:
            raise BwlabError(asked, f"its schema is {document['schema']}", fix)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BwlabError(asked, f"{type(error).__name__}: {error}", fix) from error
    late = [f"{name} {schedule}" for name, schedule in schedules.items() if schedule]
    if late:
        what = f"it advises a schedule ({', '.join(late)}), and the patches of a model are the same at every step"
        raise BwlabError(asked, what, "Generate with the command that it names, or give the scales of another trial")
    return advice


def as_image(figure: Any) -> Any:
    """Return a matplotlib figure as ComfyUI's IMAGE: a float tensor `(1, height, width, 3)` of values 0..1."""
    import numpy as np
    import torch
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    pixels = np.array(Image.open(drawn).convert("RGB"), np.float32) / 255
    return torch.from_numpy(pixels)[None]


NODES = (
    Node(
        "BwlabLoadAdapter",
        "Load adapter (bwlab)",
        "Load an adapter file of any trainer, with its own strength in each block of the model.",
        (MODEL, Input("adapter", "ADAPTER", "The adapter file."), Input("scale", "STRING", SCALE, default="1"), CLIP),
        PATCHED,
        load,
    ),
    Node(
        "BwlabConflict",
        "Conflict of two adapters (bwlab)",
        "Compare the weights of two adapters, block by block, beside random adapters. Weights that overlap little do "
        "not mean that the images do not conflict: 'bwlab analyze conflict --base' measures that.",
        (Input("first", "ADAPTER", "One adapter file."), Input("second", "ADAPTER", "The other adapter file.")),
        (
            Output("image", "IMAGE", "The overlap of the inputs and of the outputs by block."),
            Output("text", "STRING", "The answer of 'bwlab analyze conflict' with its tables."),
        ),
        conflict,
    ),
    Node(
        "BwlabApplyAdvice",
        "Apply advised scales (bwlab)",
        "Load an identity and a style with the scales that 'bwlab analyze recommend --json' advised.",
        (
            MODEL,
            Input("identity", "ADAPTER", "The adapter file of the identity."),
            Input("style", "ADAPTER", "The adapter file of the style."),
            Input("advice", "STRING", "What 'bwlab analyze recommend A B --json' printed.", multiline=True),
            CLIP,
        ),
        (*PATCHED, Output("text", "STRING", "The scales that were applied, and how sure they are.")),
        apply_advice,
    ),
)
