"""Which precision a run computes in, and a base held in half precision."""

from __future__ import annotations

import pytest
import torch

from bwlab.errors import BwlabError
from bwlab.training import device
from bwlab.training.device import BF16_PARAMETERS, hold_in_half, mixed_precision, use_fast_attention
from tests.training.test_graph import frozen_unet, predict

EMOJI, SD14 = 22_000_000, 859_520_964


@pytest.mark.parametrize(
    ("hardware", "parameters", "expected"),
    [(True, SD14, "bf16"), (True, EMOJI, "no"), (False, SD14, "no"), (True, BF16_PARAMETERS, "bf16")],
)
def test_on_a_cpu_auto_is_bfloat16_where_that_is_faster(
    hardware: bool, parameters: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "multiplies_bf16", lambda: hardware)
    assert mixed_precision("auto", "cpu", parameters) == expected


def test_a_precision_that_is_asked_for_is_given() -> None:
    assert mixed_precision("fp32", "cpu", SD14) == "no"
    assert mixed_precision("bf16", "cpu", EMOJI) == "bf16"
    assert mixed_precision("auto", "mps", SD14) == "no"
    with pytest.raises(BwlabError, match="fp16"):
        mixed_precision("fp16", "cpu", SD14)


@pytest.mark.parametrize(("major", "expected"), [(7, "fp16"), (8, "bf16")])
def test_on_a_gpu_that_only_emulates_bfloat16_auto_is_fp16(
    major: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or major > 7
    )
    assert mixed_precision("auto", "cuda", SD14) == expected


def test_an_old_pytorch_knows_no_capabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not device.multiplies_bf16()


@pytest.mark.parametrize(("side", "kind"), [(16, "AttnProcessor"), (32, "AttnProcessor2_0")])
def test_plain_attention_only_where_its_weights_are_few(side: int, kind: str) -> None:
    unet = frozen_unet(torch.bfloat16)
    unet.register_to_config(sample_size=side)  # type: ignore[operator]  # of diffusers' models
    use_fast_attention(unet, "bf16", "cpu")
    processors: dict[str, object] = unet.attn_processors  # type: ignore[assignment]
    assert {type(processor).__name__ for processor in processors.values()} == {kind}


def test_a_base_in_half_precision_takes_and_gives_single_precision() -> None:
    unet = frozen_unet(torch.float32)
    expected = predict(unet)
    hold_in_half(unet, torch.bfloat16, ("sample", "encoder_hidden_states"))
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.bfloat16}
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(predict(unet), expected, rtol=0.1, atol=0.1)
    context = torch.randn(2, 5, 32)
    by_place = unet(noisy, torch.tensor([3, 700]), context, return_dict=False)[0]
    by_name = unet(sample=noisy, timestep=torch.tensor([3, 700]), encoder_hidden_states=context).sample
    assert by_name.dtype == torch.float32
    assert torch.equal(by_place, by_name)
