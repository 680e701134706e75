"""What the families with a transformer of diffusers have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bwlab.base.families.family import ModelFamily

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bwlab.base.architectures import Pipeline


class TransformerFamily(ModelFamily):
    """A family whose denoiser reads tokens of an image, each a square of latents, and of a text.

    Attributes:
        text_tokens: the most tokens of a text.
        half_inputs: see `ModelFamily`.

    """

    denoiser = "transformer"
    grows_between_blocks = True
    half_inputs = ("hidden_states", "encoder_hidden_states", "pooled_projections")
    text_tokens: int

    def patch(self, denoiser: Any) -> int:
        """Return the side of a token, in latents."""
        return int(denoiser.config.patch_size)

    def image_stream(self, output: Any) -> Tensor:
        """Return the second output of a block; the first are the hidden states of the text."""
        hidden: Tensor = output[-1] if isinstance(output, tuple) else output
        return hidden

    def size_step(self, pipe: Pipeline) -> int:
        """Return the pixels of a token."""
        return int(pipe.vae_scale_factor) * self.patch(self.denoiser_of(pipe))

    def row_numbers(self, denoiser: nn.Module, latents: Tensor) -> int:
        """Return the numbers of the tokens of an image and its text."""
        config: Any = denoiser.config
        tokens = int(latents[0, 0].numel()) // self.patch(denoiser) ** 2 + self.text_tokens
        return tokens * int(config.num_attention_heads) * int(config.attention_head_dim)
