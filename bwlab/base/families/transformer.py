"""What the families with a transformer of diffusers have in common."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bwlab.base.families.family import ModelFamily

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from bwlab.base.architectures import Pipeline

PATCH = 2  # side of a token of packed latents
DEFAULT_LATENTS = 128  # side of the latents that the pipelines make where nobody says otherwise


class TransformerFamily(ModelFamily):
    """A family whose denoiser reads tokens of an image, each a square of latents, and of a text.

    Attributes:
        text_tokens: the most tokens of a text.
        half_inputs: see `ModelFamily`.

    """

    denoiser = "transformer"
    grows_between_blocks = True
    half_inputs: tuple[str, ...] = ("hidden_states", "encoder_hidden_states", "pooled_projections")
    text_tokens: int

    def load_options(self, folder: Path) -> Mapping[str, object]:
        """Return nothing: all components are loaded."""
        return {}

    def text_length(self, folders: Collection[str]) -> int:
        """Return the most tokens of a text."""
        return self.text_tokens

    def patch(self, denoiser: Any) -> int:
        """Return the side of a token, in latents."""
        return int(denoiser.config.patch_size)

    def width(self, denoiser: Any) -> int:
        """Return how many numbers a token has in the blocks."""
        return int(denoiser.config.num_attention_heads) * int(denoiser.config.attention_head_dim)

    def image_stream(self, output: Any) -> Tensor:
        """Return the second output of a block; the first are the hidden states of the text."""
        hidden: Tensor = output[-1] if isinstance(output, tuple) else output
        return hidden

    def size_step(self, pipe: Pipeline) -> int:
        """Return the pixels of a token."""
        return int(pipe.vae_scale_factor) * self.patch(self.denoiser_of(pipe))

    def row_numbers(self, denoiser: nn.Module, latents: Tensor) -> int:
        """Return the numbers of the tokens of an image and its text."""
        tokens = int(latents[0, 0].numel()) // self.patch(denoiser) ** 2 + self.text_tokens
        return tokens * self.width(denoiser)


class SizedFamily(TransformerFamily):
    """A family whose pipelines take the size of images as an argument, as nothing in a base states it."""

    def sampling_options(self, pipe: Any) -> Mapping[str, object]:
        """Return the size of images."""
        side = self.base_side(pipe)
        return {"height": side, "width": side}

    def base_side(self, pipe: Pipeline) -> int:
        """Return the pipelines' own size, 1024."""
        return int(getattr(pipe, "default_sample_size", DEFAULT_LATENTS)) * int(pipe.vae_scale_factor)


class PackedFamily(SizedFamily):
    """A family whose pipelines hold latents packed: each square of 2 x 2 is a token that the transformer reads."""

    def refusal(self, pipe: Pipeline) -> str | None:
        """Return what the transformer is if its input is more than packed latents."""
        from bwlab.base.latents import latent_channels

        inputs, latents = self.denoiser_of(pipe).config.in_channels, latent_channels(pipe.vae)
        if inputs == PATCH**2 * latents:
            return None
        return f"a transformer of {inputs} input channels, and packed latents have {PATCH**2 * latents}"

    def patch(self, denoiser: Any) -> int:
        """Return the side of a token, in latents; some transformers count their patches in packed latents."""
        return PATCH

    def sampled(self, latents: Tensor) -> Tensor:
        """Return latents packed."""
        return packed(latents)


def packed(latents: Tensor) -> Tensor:
    """Return latents `(batch, channels, h, w)` as tokens `(batch, h / 2 * w / 2, 4 * channels)`."""
    batch, channels, height, width = latents.shape
    tiles = latents.view(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return tiles.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, shape: Sequence[int]) -> Tensor:
    """Return tokens as latents `(batch, channels, h, w)`; the inverse of `packed`.

    Args:
        tokens: as `packed` returns them, of any batch size.
        shape: the shape of the latents, whose batch size does not count.

    """
    _, channels, height, width = shape
    tiles = tokens.view(len(tokens), height // PATCH, width // PATCH, channels, PATCH, PATCH)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(len(tokens), channels, height, width)
