"""Attaching to a UNet: all or nothing, exact scales, nothing left behind."""

from __future__ import annotations

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from bwlab.adapters.adapter import Adapter, create_adapter
from bwlab.adapters.attach import Scale, ScaledAdapter, attach
from bwlab.adapters.modules import layers_by_path
from bwlab.blocks.paths import in_text_encoder, in_unet
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import parse_spec
from bwlab.errors import BwlabError
from bwlab_locon.plugin import bwlab_register_adapters

LOCON = bwlab_register_adapters()[0]
BATCH = 3


def trained(unet: nn.Module, scheme: BlockScheme, spec: str, seed: int = 0) -> Adapter:
    """Return a LoCon with every number moved from its start."""
    generator = torch.Generator().manual_seed(seed)
    ranks = parse_spec(spec, scheme, kind="rank")
    adapter = create_adapter(unet, LOCON, ranks, 2.0, scheme=scheme, generator=generator)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return adapter


@torch.no_grad()
def run(unet: UNet2DConditionModel, *adapters: ScaledAdapter) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    latents = torch.randn(BATCH, 4, 16, 16, generator=generator)
    text = torch.randn(BATCH, 5, 24, generator=generator)
    with attach(unet, *adapters):
        sample: Tensor = unet(latents, 500, text).sample
    return sample


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) for module in model.modules())


def test_an_attached_adapter_changes_the_output_and_detaching_restores_its_bits(
    unet: UNet2DConditionModel, scheme: BlockScheme
) -> None:
    before = run(unet)
    assert (run(unet, ScaledAdapter(trained(unet, scheme, "all=2"))) - before).abs().max() > 0.01
    assert torch.equal(run(unet), before)
    assert hooks_of(unet) == 0


def test_hooks_go_when_the_block_raises(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    adapter = trained(unet, scheme, "mid=2")
    with pytest.raises(RuntimeError, match="expected input"), attach(unet, ScaledAdapter(adapter)):
        unet(torch.randn(1, 5, 16, 16), 500, torch.randn(1, 5, 24))
    assert hooks_of(unet) == 0


@pytest.mark.parametrize("scale", [0.0, {"*": torch.zeros(BATCH)}, torch.zeros(BATCH)])
def test_scale_0_sets_no_hook_and_keeps_every_bit(
    unet: UNet2DConditionModel, scheme: BlockScheme, scale: Scale
) -> None:
    attached = ScaledAdapter(trained(unet, scheme, "all=2"), scale)
    with attach(unet, attached):
        assert hooks_of(unet) == 0
    assert torch.equal(run(unet, attached), run(unet))


def test_a_block_spec_scales_each_block(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    both = trained(unet, scheme, "in0=2, mid=3")
    only_mid = Adapter("mid", "locon", {p: x for p, x in both.layers.items() if p.startswith("mid_block")}, scheme)
    by_spec = run(unet, ScaledAdapter(both, parse_spec("in0=0, mid=0.5", scheme, kind="scale")))
    assert torch.equal(by_spec, run(unet, ScaledAdapter(only_mid, 0.5)))


def test_scales_per_block_and_sample_equal_separate_runs(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    adapter = trained(unet, scheme, "all=2")
    per_sample = run(
        unet, ScaledAdapter(adapter, {"mid": torch.tensor([0.0, 1.0, 1.0]), "*": torch.tensor([1.0, 0.0, 0.5])})
    )
    for sample, (mid, others) in enumerate([(0.0, 1.0), (1.0, 0.0), (1.0, 0.5)]):
        alone = run(unet, ScaledAdapter(adapter, parse_spec(f"*={others}, mid={mid}", scheme, kind="scale")))
        torch.testing.assert_close(per_sample[sample], alone[sample], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("others", [[0.0, 1.0, 0.5], [1.0, 0.0, 1.0], [0.0, 0.0, 2.0], [1.0, 1.0, 1.0]])
def test_scales_per_sample_beside_another_adapter_equal_separate_runs(
    unet: UNet2DConditionModel, scheme: BlockScheme, others: list[float]
) -> None:
    first, second = trained(unet, scheme, "all=2"), trained(unet, scheme, "upper=3", 1)
    per_sample = run(unet, ScaledAdapter(first, 0.7), ScaledAdapter(second, {"*": torch.tensor(others)}))
    for sample, other in enumerate(others):
        alone = run(unet, ScaledAdapter(first, 0.7), ScaledAdapter(second, other))
        torch.testing.assert_close(per_sample[sample], alone[sample], atol=1e-5, rtol=1e-5)


def test_scales_too_small_for_the_models_numbers_change_nothing(
    unet: UNet2DConditionModel, scheme: BlockScheme
) -> None:
    tiny = torch.tensor([0.0, 1e-300, 0.0], dtype=torch.float64)
    assert torch.equal(run(unet, ScaledAdapter(trained(unet, scheme, "all=2"), {"*": tiny})), run(unet))


def test_gradients_reach_a_scale_of_zero(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    scale = torch.zeros(BATCH, requires_grad=True)
    adapter = trained(unet, scheme, "mid=2").eval()
    with attach(unet, ScaledAdapter(adapter, {"mid": scale})):
        unet(torch.randn(BATCH, 4, 16, 16), 3, torch.randn(BATCH, 5, 24)).sample.square().sum().backward()
    assert scale.grad is not None
    assert bool((scale.grad != 0).all())


def test_stacked_adapters_do_not_depend_on_their_order(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    first, second = (
        ScaledAdapter(trained(unet, scheme, "all=2")),
        ScaledAdapter(trained(unet, scheme, "upper=3", 1), -0.5),
    )
    torch.testing.assert_close(run(unet, first, second), run(unet, second, first), atol=1e-5, rtol=1e-5)


def test_two_with_blocks_stack_like_one(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    first, second = ScaledAdapter(trained(unet, scheme, "all=2")), ScaledAdapter(trained(unet, scheme, "upper=3", 1))
    with attach(unet, first):
        nested = run(unet, second)
    torch.testing.assert_close(nested, run(unet, first, second), atol=1e-5, rtol=1e-5)


def test_an_adapter_for_wider_layers_is_refused_before_any_hook(
    unet: UNet2DConditionModel, scheme: BlockScheme
) -> None:
    wide = UNet2DConditionModel.from_config({**unet.config, "block_out_channels": (8, 12, 16, 24)})
    foreign = trained(wide, scheme, "all=2")
    with pytest.raises(BwlabError, match=r"attaching adapter adapter: \d+ of its \d+ layers have another shape"):
        run(unet, ScaledAdapter(trained(unet, scheme, "all=2")), ScaledAdapter(foreign))
    assert hooks_of(unet) == 0


def test_an_adapter_with_layers_the_model_lacks_is_refused(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    shallow = UNet2DConditionModel.from_config({**unet.config, "layers_per_block": 1})
    with pytest.raises(BwlabError, match=r"the model lacks .* first down_blocks\.0\.attentions\.1"):
        run(shallow, ScaledAdapter(trained(unet, scheme, "in0=2")))
    assert hooks_of(shallow) == 0


@pytest.mark.parametrize(
    "scale", [float("nan"), float("inf"), torch.tensor([1.0, float("nan"), 0.0]), torch.ones(3, 1)]
)
def test_a_bad_scale_is_refused(unet: UNet2DConditionModel, scheme: BlockScheme, scale: Scale) -> None:
    with pytest.raises(BwlabError, match="finite"):
        run(unet, ScaledAdapter(trained(unet, scheme, "mid=1"), scale))


def test_a_block_without_a_scale_is_refused(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    with pytest.raises(BwlabError, match=r"none for down_blocks\.0.*in0"):
        run(unet, ScaledAdapter(trained(unet, scheme, "in0=1, mid=1"), {"mid": 1.0}))


def test_a_name_that_is_no_block_of_a_mapping_is_refused(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    adapter = trained(unet, scheme, "all=2")
    with pytest.raises(BwlabError, match=r"inn0.*Did you mean in0"):
        ScaledAdapter(adapter, {"inn0": 0.0, "*": 1.0})
    with pytest.raises(
        BwlabError, match=r"scales for each block: upper: it is no block.*Name its blocks \(in0, out3\)"
    ):
        ScaledAdapter(adapter, {"upper": 0.0, "*": 1.0})
    ScaledAdapter(adapter, {"in0": 0.0, "mid_block.attentions.0": 0.5, "te": 1.0, "*": 1.0})


def test_scales_for_another_batch_size_are_refused(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    with pytest.raises(BwlabError, match="2 scales for a batch of 3"):
        run(unet, ScaledAdapter(trained(unet, scheme, "mid=1"), torch.ones(2)))
    assert hooks_of(unet) == 0


def text_config() -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=30,
        hidden_size=24,
        intermediate_size=28,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=5,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        projection_dim=20,
    )


def test_both_clip_classes_have_the_same_adapter_paths(unet: UNet2DConditionModel) -> None:
    plain, projected = CLIPTextModel(text_config()), CLIPTextModelWithProjection(text_config())
    paths = layers_by_path(nn.Identity(), [plain, projected])
    first = {path.removeprefix("te.") for path in paths if path.startswith("te.")}
    second = {path.removeprefix("te2.") for path in paths if path.startswith("te2.")}
    assert "encoder.layers.1.self_attn.q_proj" in first
    assert second == first | {"text_projection"}


def test_the_text_encoder_is_adapted_where_te_is_named(unet: UNet2DConditionModel, scheme: BlockScheme) -> None:
    encoder = CLIPTextModel(text_config()).requires_grad_(False)
    ranks = parse_spec("mid=1, te=2", scheme, kind="rank")
    adapter = create_adapter(unet, LOCON, ranks, None, scheme=scheme, text_encoder=encoder)
    assert adapter.blocks()["te"] == 2 * 6
    assert adapter.only(in_unet).blocks() == {"mid": adapter.blocks()["mid"]}
    assert adapter.only(in_text_encoder).blocks() == {"te": 2 * 6}
    tokens = torch.tensor([[0, 3, 4, 5, 1]])
    before = encoder(tokens).last_hidden_state
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.1)
    with attach(unet, ScaledAdapter(adapter), text_encoder=encoder):
        assert (encoder(tokens).last_hidden_state - before).abs().max() > 0.01
    with pytest.raises(BwlabError, match="with the text encoder"):
        run(unet, ScaledAdapter(adapter))
