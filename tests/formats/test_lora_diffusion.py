"""lora_diffusion's numbered layers, lists and embeddings, against the walk of the library through diffusers' models."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from bwlab.blocks.configs import SD14
from bwlab.cli.app import main
from bwlab.errors import BwlabError, BwlabWarning
from bwlab.formats.contents import AdapterContents
from bwlab.formats.dialects.lora_diffusion import FeedForward, Resnets, UNetOrder, unet_orders
from bwlab.formats.read import read_contents
from tests.formats.dialects_made import read

Tensors = dict[str, NDArray[np.floating]]
Named = list[tuple[str, nn.Linear | nn.Conv2d]]
Pair = tuple[NDArray[np.float16], NDArray[np.float16]]  # up, down

ATTENTION, GEGLU, RESNET = {"CrossAttention", "Attention"}, {"GEGLU"}, {"ResnetBlock2D"}
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"
LATER = ("norm1", "attn1", "norm2", "attn2", "norm3", "ff")  # diffusers 0.15 and later
EARLIER = ("attn1", "ff", "attn2", "norm1", "norm2", "norm3")  # diffusers 0.9 to 0.14


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    """Return the UNet of SD 1.x without memory for its weights."""
    with torch.device("meta"):
        return UNet2DConditionModel.from_config(dict(SD14))


@pytest.fixture(scope="module")
def text_encoder() -> CLIPTextModel:
    with torch.device("meta"):
        return CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_attention_heads=12))


def walked(model: nn.Module, targets: Collection[str], kinds: tuple[type[nn.Linear | nn.Conv2d], ...]) -> Named:
    """Return the layers that lora_diffusion adapts, in its order: those inside each module of a target class."""
    names = {module: name for name, module in model.named_modules()}
    ancestors = [module for module in model.modules() if type(module).__name__ in targets]
    return [(names[m], m) for ancestor in ancestors for m in ancestor.modules() if isinstance(m, kinds)]


def in_order(unet: nn.Module, children: tuple[str, ...]) -> nn.Module:
    """Return the UNet with the children of its transformer blocks in the order of a version of diffusers."""
    for module in unet.modules():
        if type(module).__name__ == "BasicTransformerBlock":
            held = dict(module._modules)
            module._modules.clear()
            module._modules.update({name: held[name] for name in (*children, *held) if name in held})
    return unet


def factors(layers: Named, rank: int = 1) -> list[Pair]:
    """Return random (up, down) for each layer, in the shapes of lora_diffusion."""
    draw, pairs = np.random.default_rng(0), []
    for _, layer in layers:
        out, inner, *kernel = layer.weight.shape
        up = draw.standard_normal((out, rank, *(1 for _ in kernel)))
        pairs.append((up.astype(np.float16), draw.standard_normal((rank, inner, *kernel)).astype(np.float16)))
    return pairs


def numbered(part: str, pairs: list[Pair]) -> tuple[Tensors, dict[str, str]]:
    """Return tensors and metadata as save_safeloras writes them, without the classes."""
    tensors: Tensors = {}
    for number, (up, down) in enumerate(pairs):
        tensors |= {f"{part}:{number}:up": up, f"{part}:{number}:down": down}
    return tensors, {f"{part}:{number}:rank": str(down.shape[0]) for number, (_, down) in enumerate(pairs)}


def assert_delta(contents: AdapterContents, path: str, up: NDArray[np.float16], down: NDArray[np.float16]) -> None:
    """Check that the delta of a module is what lora_diffusion adds to the weight, with its scale of 1."""
    matrix = up.reshape(len(up), -1).astype(np.float32) @ down.reshape(len(down), -1).astype(np.float32)
    delta: NDArray[np.float32] = contents.modules[path].delta(dtype=np.float32).astype(np.float32)
    assert delta.shape == (len(up), *down.shape[1:])
    expected = matrix.reshape(delta.shape)
    assert (np.abs(delta - expected) <= 1e-6 + 1e-5 * np.abs(expected)).all()


def assert_applies(contents: AdapterContents, layers: Named, pairs: list[Pair]) -> None:
    """Check that the modules are the layers, and that the delta of each is what lora_diffusion adds to its weight."""
    assert {path for path in contents.modules if not path.startswith("te.")} == {name for name, _ in layers}
    for number, ((name, layer), (up, down)) in enumerate(zip(layers, pairs, strict=True)):
        module = contents.modules[name]
        np.testing.assert_array_equal(module.leaves["lora_up.weight"].read(), up)
        np.testing.assert_array_equal(module.leaves["lora_down.weight"].read(), down)
        assert module.scale() == 1
        assert module.shape == tuple(layer.weight.shape)
        if number % 8 == 0:  # the dense deltas of all layers take gigabytes of arithmetic
            assert_delta(contents, name, up, down)


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run the command line and return its exit code, output and errors."""
    with pytest.raises(SystemExit) as end:
        main([str(argument) for argument in arguments])
    return int(end.value.code or 0), *capsys.readouterr()


@pytest.mark.parametrize(
    ("targets", "extended", "children", "count", "rank"),
    [
        ({"CrossAttention"}, False, EARLIER, 128, 4),  # diffusers' class until 0.14
        ({"Attention"}, False, LATER, 128, 1),
        (ATTENTION | GEGLU, False, EARLIER, 144, 1),
        (ATTENTION | GEGLU, False, LATER, 144, 3),
        (ATTENTION | GEGLU | RESNET, True, EARLIER, 224, 2),  # --use_extended_lora
        (ATTENTION | GEGLU | RESNET, True, LATER, 224, 1),
        (ATTENTION | GEGLU | RESNET, False, LATER, 166, 1),
        (GEGLU, False, LATER, 16, 1),
        (RESNET, True, LATER, 80, 1),
    ],
)
@pytest.mark.parametrize("listed", [False, True])
def test_inspect_and_convert_find_the_layers_that_lora_diffusion_adapts(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    unet: nn.Module,
    targets: set[str],
    extended: bool,
    children: tuple[str, ...],
    count: int,
    rank: int,
    listed: bool,
) -> None:
    kinds = (nn.Linear, nn.Conv2d) if extended else (nn.Linear,)
    layers = walked(in_order(unet, children), targets | (ATTENTION if targets & ATTENTION else set()), kinds)
    pairs = factors(layers, rank)
    assert len(layers) == count
    if listed:
        file = tmp_path / "a.pt"
        torch.save([torch.from_numpy(tensor) for pair in pairs for tensor in pair], file)
    else:
        file = tmp_path / "a.safetensors"
        tensors, metadata = numbered("unet", pairs)
        save_file(tensors, file, metadata | {"unet": json.dumps(list(targets))})
    code, out, _ = run(capsys, "inspect", file, "--json")
    (described,) = json.loads(out)["files"]
    assert (code, described["dialect"]) == (0, "lora-diffusion-list" if listed else "lora-diffusion")
    converted = tmp_path / "b.safetensors"
    assert run(capsys, "convert", file, converted, "--to", "kohya")[0] == 0
    contents = read_contents(converted)
    assert contents.dialect == "kohya"
    assert_applies(contents, layers, pairs)


def test_two_tokens_the_text_encoder_and_the_unet_in_one_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unet: nn.Module, text_encoder: nn.Module
) -> None:
    layers = walked(in_order(unet, EARLIER), ATTENTION | GEGLU, (nn.Linear,))
    text = walked(text_encoder, {"CLIPAttention"}, (nn.Linear,))
    assert len(text) == 48
    pairs, text_pairs = factors(layers), factors(text)
    tensors, metadata = numbered("unet", pairs)
    text_tensors, text_metadata = numbered("text_encoder", text_pairs)
    # The second token has no angle brackets, which lora_diffusion does not demand: its metadata says what it is.
    tokens = {"<s1>": np.full(768, 0.5, np.float32), "krk": np.arange(768, dtype=np.float32)}
    classes = {"unet": '["GEGLU", "CrossAttention", "Attention"]', "text_encoder": '["CLIPAttention"]'}
    metadata |= text_metadata | classes | dict.fromkeys(tokens, "<embed>")
    save_file(tensors | text_tensors | tokens, tmp_path / "a.safetensors", metadata)
    code, out, _ = run(capsys, "inspect", tmp_path / "a.safetensors", "--json")
    assert (code, json.loads(out)["files"][0]["architecture"]) == (0, "sd1")
    contents = read_contents(tmp_path / "a.safetensors")
    assert contents.unknown == ()
    for token, values in tokens.items():
        np.testing.assert_array_equal(contents.embeddings[token].read(), values)
    assert run(capsys, "convert", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--to", "kohya")[0] == 0
    converted = read_contents(tmp_path / "b.safetensors")
    assert_applies(converted, layers, pairs)
    assert len(converted.modules) == 144 + 48
    for (name, _), (up, down) in zip(text, text_pairs, strict=True):
        assert_delta(converted, f"te.{name.removeprefix('text_model.')}", up, down)


def test_the_list_of_a_text_encoder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text_encoder: CLIPTextModel
) -> None:
    """training_scripts/train_lora_dreambooth.py writes it beside the list of the UNet, as `....text_encoder.pt`."""
    layers = walked(text_encoder, {"CLIPAttention"}, (nn.Linear,))
    pairs = factors(layers, rank=2)
    torch.save([torch.from_numpy(tensor) for pair in pairs for tensor in pair], tmp_path / "a.text_encoder.pt")
    converted = tmp_path / "b.safetensors"
    assert run(capsys, "convert", tmp_path / "a.text_encoder.pt", converted, "--to", "kohya")[0] == 0
    contents = read_contents(converted)
    assert len(contents.modules) == 48
    for (name, _), (up, down) in zip(layers, pairs, strict=True):
        assert_delta(contents, f"te.{name.removeprefix('text_model.')}", up, down)


def test_a_file_of_tokens_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """save_all(save_lora=False) writes it."""
    save_file({"<s1>": np.full(768, 0.5, np.float32)}, tmp_path / "a.safetensors", {"<s1>": "<embed>"})
    code, out, _ = run(capsys, "inspect", tmp_path / "a.safetensors")
    assert (code, "<s1> (768)" in out) == (0, True)


def test_no_two_orders_have_the_same_shapes() -> None:
    orders = [(order, list(order.layers())) for order in unet_orders()]
    assert len(orders) == 14
    for (first, one), (second, other) in combinations(orders, 2):
        assert [shape for _, shape in one] != [shape for _, shape in other], (first, second)


def test_each_order_is_that_of_diffusers(unet: nn.Module) -> None:
    places = {FeedForward.ABSENT: LATER, FeedForward.BETWEEN: EARLIER, FeedForward.AFTER: LATER}
    for order in unet_orders():
        kinds = (nn.Linear, nn.Conv2d) if order.resnets is Resnets.ALL else (nn.Linear,)
        layers = walked(in_order(unet, places[order.feed_forward]), order.classes, kinds)
        assert [path for path, _ in order.layers()] == [name for name, _ in layers]
        for (_, (out, inner, kernel)), (_, layer) in zip(order.layers(), layers, strict=True):
            inner = 768 if inner is None else inner
            assert (out, inner, *(() if kernel is None else (kernel, kernel))) == tuple(layer.weight.shape)


def test_metadata_with_other_classes_than_the_layers_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unet: nn.Module
) -> None:
    """lora_diffusion's cli_pt_to_safetensors names its default classes, also for lists of attention layers only."""
    layers = walked(unet, ATTENTION, (nn.Linear,))
    pairs = factors(layers)
    tensors, metadata = numbered("unet", pairs)
    metadata["unet"] = '["CrossAttention", "Attention", "GEGLU"]'
    with pytest.warns(BwlabWarning, match=r"names the classes Attention, CrossAttention, GEGLU .*128 layers .* Attent"):
        contents = read(tmp_path, tensors, metadata)
    assert_applies(contents, layers, pairs)
    code, _, err = run(capsys, "inspect", tmp_path / "a.safetensors")
    assert (code, err.count("bwlab: warning: "), err.count("\n")) == (0, 1, 1)


def small() -> Iterator[tuple[str, NDArray[np.float16]]]:
    order = UNetOrder(feed_forward=FeedForward.BETWEEN)
    for number, (_, (out, inner, _)) in enumerate(order.layers()):
        yield f"unet:{number}:up", np.ones((out, 1), np.float16)
        yield f"unet:{number}:down", np.ones((1, inner or 768), np.float16)
    for number in range(8):
        yield f"text_encoder:{number}:up", np.ones((768, 1), np.float16)
        yield f"text_encoder:{number}:down", np.ones((1, 768), np.float16)


COUNTS = "128 for attention, 144 with the feed-forward, 224 with ResNet blocks"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda tensors: tensors.pop("unet:143:up"), "it lacks unet:143:up"),
        (lambda tensors: [tensors.pop(f"unet:143:{leaf}") for leaf in ("up", "down")],
         f"its 143 layers of the unet do not fit the UNet of SD 1.x or 2.x, which has {COUNTS}"),
        (lambda tensors: tensors.update({"unet:4:up": np.ones((320, 1), np.float16)}),
         f"2.x: number 4 is 320 x 320, but {BLOCK}.ff.net.0.proj is 2560 x 320"),
        (lambda tensors: tensors.update({"unet:0:up": np.ones(320, np.float16)}), "unet:0:up \\(320,\\) and unet:0:do"),
        (lambda tensors: tensors.update({f"text_encoder:8:{leaf}": np.ones((768, 768)) for leaf in ("up", "down")}),
         "its 9 layers of the text_encoder do not fit the attention layers of CLIP, 4 of each block"),
    ],
)  # fmt: skip
def test_numbered_layers_that_do_not_fit_are_errors(
    tmp_path: Path, change: Callable[[Tensors], object], found: str
) -> None:
    tensors: Tensors = dict(small())
    change(tensors)
    with pytest.raises(BwlabError, match=found):
        read(tmp_path, tensors, {"unet": '["CrossAttention", "GEGLU"]', "text_encoder": '["CLIPAttention"]'})
