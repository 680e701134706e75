"""Prompts of web UIs: weights, escapes and BREAK with `--weighting a1111`, and one warning without it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from bwlab.base.load import load_base
from bwlab.errors import BwlabError
from bwlab.generation.a1111_syntax import parse_weights
from bwlab.generation.prompt_notes import syntax_note
from bwlab.generation.recipe import read_recipe
from bwlab.generation.sample import encode
from tests.generation.test_generate_command import Captured, call, common, pixels

if TYPE_CHECKING:
    from bwlab.base.architectures import Pipeline


# The first six are the examples in the web UI's own parse_prompt_attention.
@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        (
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            [
                ("a ", 1),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        ),
        ("[fox] :) 12:30)", [("fox", 1 / 1.1), (" :) 12:30)", 1)]),
        ("(a:1.2.3) (b:-0.5)", [("a:1.2.3", 1.1), (" ", 1), ("b", -0.5)]),
        (r"fox \(vocaloid\), \\", [("fox (vocaloid), \\", 1)]),
        ("", []),
    ],
)
def test_the_grammar_is_that_of_the_web_ui(prompt: str, parts: list[tuple[str, float]]) -> None:
    (segment,) = parse_weights(prompt)
    assert [text for text, _ in segment] == [text for text, _ in parts]
    assert [weight for _, weight in segment] == pytest.approx([weight for _, weight in parts])


def test_break_divides_a_prompt_outside_of_words_only() -> None:
    texts = [[text for text, _ in segment] for segment in parse_weights("fox BREAK (red owl\nBREAK, BREAKFAST:1.2)")]
    assert texts == [["fox"], ["red owl"], [", BREAKFAST"]]


def embedded(base: Pipeline, prompt: str, weighting: str | None = None) -> Tensor:
    value: Tensor | None = encode(base, [prompt], 1.0, "", weighting)["prompt_embeds"]
    assert value is not None
    return value


@pytest.fixture(scope="module")
def base_with_mean(tiny_pipeline: Path) -> Pipeline:
    """Return a base whose text embeddings have a mean other than 0, as those of trained encoders."""
    base = load_base(tiny_pipeline)
    with torch.no_grad():
        base.text_encoder.final_layer_norm.bias += 0.5
    return base


@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_weights_multiply_the_embeddings_and_keep_their_mean(
    base_with_mean: Pipeline, xl_pipe: Pipeline, family: str
) -> None:
    base = base_with_mean if family == "sd" else xl_pipe
    plain = embedded(base, "a fox").double()
    weights = torch.ones(plain.shape[1], dtype=torch.float64)
    weights[1] = 0.3  # after the begin of the text: "a", then the letters of "fox"
    weights[2:5] = 1.7
    widths = [plain.shape[2]] if family == "sd" else [32, plain.shape[2] - 32]  # each encoder keeps its own mean
    expected = []
    for part in plain.split(widths, dim=2):
        scaled = part * weights[None, :, None]
        expected.append(scaled * (part.mean() / scaled.mean()))
    weighted = embedded(base, "(a:0.3) (fox:1.7)", "a1111").double()
    assert torch.allclose(weighted, torch.cat(expected, dim=2), rtol=1e-3, atol=1e-4)
    assert not torch.allclose(weighted, plain, atol=1e-2)


def test_a_mean_of_nothing_is_not_restored(pipe: Pipeline) -> None:
    plain = embedded(pipe, "a fox")  # the last layer norm of this untrained encoder leaves a mean of 0
    weighted = embedded(pipe, "a (fox:1.7)", "a1111")
    assert torch.allclose(weighted[:, 2:5], plain[:, 2:5] * 1.7, atol=1e-5)
    assert torch.allclose(weighted[:, :2], plain[:, :2], atol=1e-5)


def test_a_weighted_prompt_does_not_depend_on_its_batch(pipe: Pipeline) -> None:
    both = encode(pipe, ["a (fox:1.7)", "((owl))"], 1.0, "", "a1111")["prompt_embeds"]
    assert both is not None
    assert torch.allclose(both[1:], embedded(pipe, "((owl))", "a1111"), atol=1e-5)


def test_break_begins_another_chunk(pipe: Pipeline) -> None:
    whole = embedded(pipe, "fox BREAK owl", "a1111")
    assert torch.allclose(whole, torch.cat([embedded(pipe, "fox"), embedded(pipe, "owl")], dim=1), atol=1e-5)
    assert embedded(pipe, "fox BREAK", "a1111").shape == embedded(pipe, "fox").shape


def test_sdxl_leaves_the_pooled_text_without_weights(xl_pipe: Pipeline) -> None:
    plain, weighted = (encode(xl_pipe, [text], 1.0, "", "a1111") for text in ("a fox", "a (fox:2)"))
    assert torch.equal(plain["pooled_prompt_embeds"], weighted["pooled_prompt_embeds"])


def test_the_command_reads_weights_and_escapes(tiny_pipeline: Path, tmp_path: Path, capsys: Captured) -> None:
    base = (*common(tiny_pipeline, tmp_path), "--negative", "(dog:1.0)")
    a1111 = ("--weighting", "a1111")
    assert call(*base, "--prompt", r"fox \(x\)", *a1111) == 0
    assert call(*base, "--prompt", "(fox:1.8) x", "--prompt", "fox x", *a1111) == 0
    assert capsys.readouterr().err.count("bwlab: warning") == 0
    assert call(*common(tiny_pipeline, tmp_path), "--prompt", "fox (x)", "--negative", "dog") == 0
    assert capsys.readouterr().err.count("bwlab: warning") == 1
    escaped, more, less, plain = (tmp_path / f"{n:04}-seed0.png" for n in range(4))
    assert abs(pixels(escaped).astype(int) - pixels(plain)).max() <= 1
    assert (pixels(more) != pixels(less)).any()
    assert (read_recipe(more).weighting, read_recipe(more).prompt) == ("a1111", "(fox:1.8) x")


@pytest.mark.parametrize(
    ("prompt", "weighting", "said"),
    [
        ("(fox:1.4), ((red)), [owl]", None, "(fox:1.4), ((red)), [owl]. Add --weighting a1111"),
        (r"fox \(x\)", None, r"\(, \). Add --weighting a1111"),
        ("fox BREAK owl", None, "BREAK. Add --weighting a1111"),
        ("(fox), [a|b]", None, "(fox), [a|b]. Add --weighting a1111"),
        ("(fox:1.4)", "compel", "(fox:1.4). Add --weighting a1111"),
        ("embedding:ink, fox", None, "embedding:ink. Load an embedding with --embedding FILE"),
        ("{red|blue} __coat/colour__ fox", "a1111", "{red|blue}, __coat/colour__. bwlab fills in no wildcards"),
        ("a [fox:owl:0.5]", "a1111", "[fox:owl:0.5]. bwlab reads neither prompt editing"),
        ("(a), (b), (c), (d), (e)", None, "(a), (b), (c), (d) and 1 more. Add"),
        ("fox AND owl", "a1111", "AND. bwlab composes no prompts with AND"),
        ("fox <lora:ink:0.8>", None, "<lora:ink:0.8>. Only 'bwlab generate' loads the adapters of tags"),
    ],
)
def test_syntax_that_is_not_read_is_named(prompt: str, weighting: str | None, said: str) -> None:
    note = syntax_note(["owl", prompt, prompt], weighting)
    assert note is not None
    assert said in note


@pytest.mark.parametrize(
    ("prompt", "weighting"),
    [
        ("a fox: red, 12:30, snake_case, __init__ :)", None),
        ("a BREAKFAST, <s1>", None),
        ("SAND AND, AND", None),
        ("(fox:1.2), [owl], BREAK", "a1111"),
        (r'("a (red)1.4 fox", "owl").blend(0.7, 0.3), \(x\)', "compel"),
    ],
)
def test_plain_words_and_what_is_read_need_no_warning(prompt: str, weighting: str | None) -> None:
    assert syntax_note([prompt.replace("__init__", "")], weighting) is None


def test_a_call_warns_once_of_all_prompts(tiny_pipeline: Path, tmp_path: Path, capsys: Captured) -> None:
    prompts = ("--prompt", "(a:2)", "--prompt", "[b]", "--negative", "((c))")
    assert call(*common(tiny_pipeline, tmp_path), *prompts, "--xy", "steps: 1, 2", "") == 0
    error = capsys.readouterr().err
    assert error.count("warning") == 1
    assert "bwlab: warning: prompt syntax read as plain words: (a:2), [b], ((c)). Add" in error


@pytest.mark.parametrize("prompt", [f"(fox:{'9' * 400})", "((((fox:9999):9999) BREAK owl", "[(fox:-20000)]"])
def test_weights_that_no_image_can_have_are_refused(prompt: str) -> None:
    with pytest.raises(BwlabError, match="the weight of 'fox' is"):
        parse_weights(prompt)


@pytest.mark.parametrize("text", ["(", "[", "(a:1.1", "(:", "([a"])
def test_brackets_without_end_are_counted(text: str) -> None:
    """Each would multiply all that follows, so a prompt of many would take time by the square of its length."""
    assert parse_weights(text * 50)
    with pytest.raises(BwlabError, match="more than 100 brackets are open at once"):
        parse_weights(text * 8000)
