"""B-LoRA: in SDXL, the first adapter acts in the block of the content alone, the second in that of the style."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bwlab.adapters.attach import ActingLayers, ScaledLayer
from bwlab.adapters.layer import AdaptedLayer
from bwlab.errors import BwlabError
from bwlab.fusion.method import FusionMethod, FusionPlan, of_adapter, same_at_every_step

BLOCKS = ("up_blocks.0.attentions.0.", "up_blocks.0.attentions.1.")  # W4 (content) and W5 (style)
ONLY_SDXL = "add_embedding.linear_1"  # SDXL's UNet has it, those of SD 1.x and 2.x do not


@dataclass(frozen=True)
class TwoBlocks(FusionMethod):
    """The content's adapter acts in W4, the style's in W5, and nowhere else.

    Source: Frenkel et al., Implicit Style-Content Separation using B-LoRA (arXiv 2403.14572): W4 and W5 are the first
    two transformers of SDXL's first up block.
    """

    def plan(self, layers: ActingLayers, bases: Mapping[str, AdaptedLayer]) -> FusionPlan:
        """Return the plan in which each adapter acts in its block."""
        if ONLY_SDXL not in bases or not any(path.startswith(BLOCKS[1]) for path in bases):
            found = "the base is not SDXL, whose two blocks it takes"
            raise BwlabError("--fusion b-lora", found, "Use an SDXL base, or another fusion method")
        kept: dict[str, list[ScaledLayer]] = {}
        for number, (block, role) in enumerate(zip(BLOCKS, ("first", "second"), strict=True)):
            own = {path: each for path, each in of_adapter(layers, number).items() if path.startswith(block)}
            if not own:
                found = f"the {role} adapter has no layer in {block.rstrip('.')}"
                raise BwlabError("--fusion b-lora", found, "Give an adapter that was trained there")
            kept |= own
        return same_at_every_step(kept)
