"""The HTML report: one file, readable in a browser, made of the presentations that the commands print."""

from __future__ import annotations

import html
import json
import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from bwlab.tables import Cell, Table, columns_of
from bwlab.text import CONTROLS
from bwlab_analysis.report.block_map import block_map, fill_colour
from bwlab_analysis.report.gallery import encode_all
from bwlab_analysis.report.html import table_html
from bwlab_analysis.report.numbers import number_cell, number_text
from bwlab_analysis.report.page import write_report
from bwlab_analysis.report.presentation import Presentation
from tests.analysis.cli.test_base import FAST, QUICK, Files, fidelity_options
from tests.analysis.cli.test_base import files as files
from tests.analysis.conftest import Outcome
from tests.analysis.kohya import adapter_tensors

Run = Callable[..., Outcome]

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)

# Sorts every table by every column, chooses the last measure, and writes into the page's title what went wrong, how
# wide the page is, and the least contrast of a text with what it stands on (WCAG 2.2, "relative luminance").
CHECK = """
<script>
const wrong = [];
window.addEventListener("error", (event) => wrong.push(event.message));
const numbers = (colour) => [...colour.matchAll(/[\\d.]+/g)].map((found) => Number(found[0]));
const over = (top, below) => {
  const [r, g, b, a = 1] = top;
  return [r, g, b].map((value, index) => value * a + below[index] * (1 - a));
};
const ground = (element) => {
  if (!element) return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
  return over(numbers(getComputedStyle(element).backgroundColor), ground(element.parentElement));
};
const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
const luminance = (colour) => {
  const [r, g, b] = colour.map((value) => linear(value / 255));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const contrast = (element) => {
  const below = ground(element);
  const pair = [luminance(over(numbers(getComputedStyle(element).color), below)), luminance(below)];
  return (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
};
window.addEventListener("load", () => {
  for (const head of document.querySelectorAll("th[data-sort]")) {
    head.click();
    const cells = [...head.closest("table").tBodies[0].rows].map((row) => row.cells[head.cellIndex].dataset.value);
    const values = cells.every((cell) => cell !== undefined) ? cells.map(Number) : [];
    if (values.some((value, index) => index && value > values[index - 1])) wrong.push(`unsorted: ${head.textContent}`);
  }
  for (const choose of document.querySelectorAll("select")) {
    choose.selectedIndex = choose.options.length - 1;
    choose.dispatchEvent(new Event("change"));
  }
  const filled = [...document.querySelectorAll(".blocks rect")].filter((rect) => rect.style.fill).length;
  const texts = [...document.querySelectorAll("h1, h2, h3, p, li, dt, dd, td, td small, th, pre, figcaption")];
  const faint = Math.min(...texts.filter((one) => one.textContent).map(contrast));
  const dark = luminance(ground(document.body)) < 0.1;
  document.title = JSON.stringify({ wrong, wide: document.documentElement.scrollWidth, filled, faint, dark });
});
</script>
"""


WIDTH = "document.title = this.contentDocument.documentElement.scrollWidth"


@pytest.fixture(scope="module")
def presentations(files: Files, tmp_path_factory: pytest.TempPathFactory) -> list[Presentation]:
    """Return what every command presents, on a tiny base."""
    from bwlab.cli.app import main

    third = tmp_path_factory.mktemp("third") / "third.safetensors"
    third.write_bytes(files.a.read_bytes())
    base = ("--base", files.base)
    data = ("--data", f"a={files.images}", "--data", f"b={files.images}")
    commands: tuple[tuple[object, ...], ...] = (
        ("norms", files.a),
        ("conflict", files.a, files.b, *base, *data, *QUICK),
        ("conflict", files.a, files.b, third),
        ("activations", files.b, *base, "--data", files.images, *FAST),
        ("fidelity", "--adapter", files.b, "--adapter", files.b, *fidelity_options(files)),
    )
    shown: list[Presentation] = []

    def keep(presentation: Callable[[], Presentation], *rest: object, **options: object) -> None:
        shown.append(presentation())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bwlab_analysis.report.show.show", keep)
        for arguments in commands:
            with pytest.raises(SystemExit) as ended:
                main(["analyze", *map(str, arguments)])
            assert not ended.value.code
    return shown


@pytest.mark.slow
def test_one_file_without_network(presentations: list[Presentation], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = {f"picture {i}": Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)) for i in range(3)}
    path = write_report(presentations, tmp_path / "report", images, "bwlab analyze conflict a b")
    text = path.read_text()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert not re.search(r"""(src|href)=["'](?!data:)""", text)
    assert "http" not in text
    assert len(text) < 5_000_000
    assert text.count("<figure>") == 3
    assert "bwlab analyze conflict a b" in text
    assert "No block is advised from these numbers" in text


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on PATH")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_a_browser_shows_it_without_errors(
    presentations: list[Presentation], tmp_path: Path, width: int, dark: bool
) -> None:
    path = write_report(presentations, tmp_path)
    path.write_text(path.read_text().replace("<style>", CHECK + "<style>", 1))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},2000", "--virtual-time-budget=4000"]
    flags.append(f"--blink-settings=preferredColorScheme={0 if dark else 1}")
    done = subprocess.run(
        [str(CHROMIUM), *flags, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    title = re.search(r"<title>(.*?)</title>", done.stdout, re.DOTALL)
    assert title is not None
    seen = json.loads(title[1])
    assert seen["wrong"] == []
    assert seen["filled"] > 9
    # Chromium's headless window is at least 500 pixels wide.
    assert seen["wide"] <= max(width, 500)
    assert seen["dark"] is dark
    assert seen["faint"] >= 4.5


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on PATH")
def test_long_names_fit_a_phone(presentations: list[Presentation], tmp_path: Path) -> None:
    """In a frame, as a headless window is at least 500 pixels wide."""
    path = write_report([replace(shown, title="x" * 99) for shown in presentations], tmp_path)
    frame = f'<iframe width=390 style="border:0" srcdoc="{html.escape(path.read_text())}" onload="{WIDTH}"></iframe>'
    path.write_text(frame)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom"]
    done = subprocess.run(
        [str(CHROMIUM), *flags, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    title = re.search(r"<title>(\d+)</title>", done.stdout)
    assert title is not None
    assert int(title[1]) <= 390


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on PATH")
@pytest.mark.parametrize("command", [("norms",), ("conflict", "--details")])
def test_names_of_strangers_run_nothing(command: tuple[str, ...], bwlab: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        ask = f"http://127.0.0.1:{server.getsockname()[1]}"
        poison = (
            f"</title>\"'><script>document.title = 'owned'; fetch('{ask}/a')</script><img src='{ask}/b' onerror='x()'>"
        )
        poison += "\x1b]0;owned\x07\x9b31m\u202egnp"
        metadata = dict.fromkeys(("ss_output_name", "modelspec.title", "ss_sd_model_name", poison), poison)
        tensors = {**adapter_tensors(0), f"{poison}.weight": np.ones(3, np.float32)}
        files = [tmp_path / f"{letter}{poison.replace('/', '|')}.safetensors" for letter in "ab"]
        for file in files:
            save_file(tensors, file, metadata)
        given = files[:1] if command[0] == "norms" else files
        assert bwlab("analyze", command[0], *given, *command[1:], "--report", tmp_path / "report").code == 0
        path = tmp_path / "report" / "report.html"
        assert CONTROLS.findall(path.read_text()) == []
        assert r"\x1b]0;owned\x07\x9b31m\u202egnp" in path.read_text()
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom"]
        done = subprocess.run(
            [str(CHROMIUM), *flags, path.as_uri()], capture_output=True, text=True, timeout=120, check=True
        )
        with pytest.raises(BlockingIOError):
            server.accept()
    assert done.stdout.count("<script>") == 1
    assert "<title>bwlab" in done.stdout
    assert "<img" not in done.stdout


def test_every_command_writes_one(bwlab: Run, files: Files, tmp_path: Path) -> None:
    outcome = bwlab("analyze", "norms", files.a, "--report", tmp_path / "out")
    assert outcome.code == 0
    assert "The report is" in outcome.err
    assert "Weights of" in (tmp_path / "out" / "report.html").read_text()


def test_a_conflict_opens_with_the_answer_the_conflict_by_block_and_training_images(
    bwlab: Run, files: Files, tmp_path: Path
) -> None:
    data = ("--data", f"a={files.images}", "--data", f"style={files.images}")
    outcome = bwlab(
        "analyze", "conflict", files.a, files.b, "--base", files.base, *data, *QUICK, "--report", tmp_path, "--json"
    )
    text = (tmp_path / "report.html").read_text()
    first = re.search(r"<h3>(.*?)</h3><p>(.*?)</p>", text)
    assert first is not None
    assert (first[1], html.unescape(first[2])) == ("Answer", json.loads(outcome.out)["answer"][0])
    options = re.findall("<option>(.*?)</option>", text)
    assert options[:2] == ["share that identity loses beside style", "share that style loses beside identity"]
    drawn = json.loads(re.search(r'<script type="application/json">(.*?)</script>', text)[1])  # type: ignore[index]
    effects = {
        effect["block"]: effect["retention_a"]["value"]
        for effect in json.loads(outcome.out)["activations"]["effects"]
        if effect["timestep"] == "all"
    }
    assert float(drawn[options[0]]["mid"]["text"]) == pytest.approx(1 - effects["mid"], abs=0.006)
    strips = re.findall("<figcaption>(.*?)</figcaption>", text)
    assert strips == [
        *("training images of identity", "training images of style"),
        *("without identity and style", "identity alone", "style alone", "identity and style"),
    ]
    heads = dict(re.findall(r'<th data-sort title="(.*?)".*?>(.*?)</th>', text))
    legend = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert heads["denoising loss of the base alone on the adapter&#x27;s training images; lower is better"] == "base"
    assert all(legend[head.partition("<br>")[0]] for head in heads.values())
    assert {"base", "kept", "cosine", "alignment", "identity retained"} <= set(legend)


def test_images_are_made_to_fit() -> None:
    rng = np.random.default_rng(0)
    large = {str(i): Image.fromarray(rng.integers(0, 256, (700, 700, 3), np.uint8)) for i in range(6)}
    encoded = encode_all(large)
    assert sum(len(data) for _, data in encoded.values()) * 4 / 3 < 3_500_000
    assert {kind for kind, _ in encoded.values()} == {"image/jpeg"}
    small = encode_all({"one": Image.new("RGB", (8, 8))})
    assert small["one"][0] == "image/png"


def test_text_is_escaped() -> None:
    assert "<b>" not in table_html(Table(columns_of("<b>"), ((Cell("<b>", note="<b>"),),), title="<b>", note="<b>"))
    assert "<script>alert" not in block_map({"</script><script>alert(1)": {"in0": 1.0, "out0": 2.0}})


@pytest.mark.parametrize(("value", "text"), [(-0.001, "0.00"), (0.5, "0.50"), (12345.6, "1.23e+04"), (-2, "-2.00")])
def test_numbers(value: float, text: str) -> None:
    assert number_text(value) == text


def test_colours_grow_with_the_number_and_tell_signs_apart() -> None:
    assert fill_colour(0) == ""
    assert "--more" in fill_colour(0.5)
    assert "--less" in fill_colour(-0.5)
    assert number_cell(None).text == "-"
