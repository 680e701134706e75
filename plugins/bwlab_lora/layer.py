"""The LoRA layer."""

from __future__ import annotations

from bwlab.adapters.lowrank import LowRankLayer


class LoraLayer(LowRankLayer):
    """`h = W x + alpha / rank * up(down(x))` (Hu et al. 2021, arXiv 2106.09685)."""

    type_name = "lora"
