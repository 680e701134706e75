"""The adapter types of this plugin: their keys, their options, and LyCORIS' module for each; light to import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bwlab.config.options import Converter, flag, number, whole_number
from bwlab.formats.keys import ALPHA, DOWN, MAGNITUDE, UP

LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
OFT = ("oft_blocks", "rescale")
GLORA = ("a1.weight", "a2.weight", "b1.weight", "b2.weight")


def factor(value: object) -> object:
    """Return LoKr's factor; ValueError for anything but -1 and whole numbers above 0."""
    try:
        return value if value == -1 else whole_number(1)(value)
    except ValueError:
        raise ValueError("-1, or a whole number of at least 1") from None


LOKR_OPTIONS: Mapping[str, Converter] = {
    "factor": factor,
    "decompose_both": flag,
    "full_matrix": flag,
    "unbalanced_factorization": flag,
    "use_tucker": flag,
}
OFT_OPTIONS: Mapping[str, Converter] = {"constraint": number(least=0.0), "rescaled": flag}
WD_OPTIONS: Mapping[str, Converter] = {"wd_on_output": flag}


@dataclass(frozen=True)
class Kind:
    """An adapter type, named as the algorithm of its files is in `bwlab inspect`.

    Attributes:
        name: the name.
        summary: a description, in one line.
        leaves: the endings of its keys in a file.
        module: module and name of LyCORIS' class, which makes the tensors of new layers.
        arguments: LyCORIS' arguments (kohya's `network_args`) that select this type.
        needs_base_weight: whether the delta depends on the weight that it changes.
        options: the options that a user may give, named as LyCORIS' arguments.
        splits_outputs: whether it divides the outputs of a layer into blocks of equal size.

    """

    name: str
    summary: str
    leaves: tuple[str, ...]
    module: tuple[str, str]
    arguments: Mapping[str, str]
    needs_base_weight: bool = False
    options: Mapping[str, Converter] = field(default_factory=dict)
    splits_outputs: bool = False


LYCORIS_KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "loha",
            "LoHa: the element-wise product of two low-rank deltas",
            (*LOHA, ALPHA),
            ("loha", "LohaModule"),
            {"algo": "loha"},
            options={"use_tucker": flag},
        ),
        Kind(
            "lokr",
            "LoKr: the Kronecker product of two small matrices",
            (*LOKR, ALPHA),
            ("lokr", "LokrModule"),
            {"algo": "lokr"},
            options=LOKR_OPTIONS,
        ),
        Kind(
            "dora",
            "DoRA: LoCon, and the length of each row of the changed weight is trained apart",
            (DOWN, UP, MAGNITUDE, ALPHA),
            ("locon", "LoConModule"),
            {"algo": "lora", "dora_wd": "True"},
            needs_base_weight=True,
            options=WD_OPTIONS,
        ),
        Kind(
            "doha",
            "LoHa with the weight decomposition of DoRA",
            (*LOHA, MAGNITUDE, ALPHA),
            ("loha", "LohaModule"),
            {"algo": "loha", "dora_wd": "True"},
            needs_base_weight=True,
            options={"use_tucker": flag, **WD_OPTIONS},
        ),
        Kind(
            "dokr",
            "LoKr with the weight decomposition of DoRA",
            (*LOKR, MAGNITUDE, ALPHA),
            ("lokr", "LokrModule"),
            {"algo": "lokr", "dora_wd": "True"},
            needs_base_weight=True,
            options={**LOKR_OPTIONS, **WD_OPTIONS},
        ),
        Kind(
            "oft",
            "diag-OFT: rotations of blocks of outputs; the rank is the largest size of a block",
            (*OFT, ALPHA),
            ("diag_oft", "DiagOFTModule"),
            {"algo": "diag-oft"},
            needs_base_weight=True,
            options=OFT_OPTIONS,
            splits_outputs=True,
        ),
        Kind(
            "boft",
            "BOFT: butterflies of rotations of outputs; the rank is the largest size of a block",
            (*OFT, ALPHA),
            ("boft", "ButterflyOFTModule"),
            {"algo": "boft"},
            needs_base_weight=True,
            options=OFT_OPTIONS,
            splits_outputs=True,
        ),
        Kind(
            "glora",
            "GLoRA: a low-rank delta, and a low-rank multiple of the weight",
            (*GLORA, ALPHA),
            ("glora", "GLoRAModule"),
            {"algo": "glora"},
            needs_base_weight=True,
        ),
        Kind(
            "ia3",
            "IA3: a factor for each output or input channel; any rank above 0 selects a block",
            ("weight", "on_input"),
            ("ia3", "IA3Module"),
            {"algo": "ia3"},
            needs_base_weight=True,
            options={"train_on_input": flag},
        ),
    )
}
