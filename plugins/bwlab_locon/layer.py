"""The LoCon layer."""

from __future__ import annotations

from bwlab.adapters.lowrank import LowRankLayer


class LoconLayer(LowRankLayer):
    """LoRA that also adapts k x k convolutions: a k x k conv to `rank` channels, then a 1 x 1 conv.

    Source: LyCORIS, "Navigating Text-To-Image Customization" (Yeh et al. 2024, arXiv 2309.14859), section 3.
    """

    type_name = "locon"
