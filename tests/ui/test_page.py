"""The page in headless Chromium: sliders, images, tabs, jobs, files, keyboard, names and widths."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from bwlab_ui import advice
from bwlab_ui.mixer import Mixer
from bwlab_ui.settings import AdapterScales, ImageSettings
from bwlab_ui.work import Job
from tests.ui.served import mixing, offered, served

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium on PATH")]
PATIENCE = 60  # seconds until something must have happened
SECRET = "correct horse"

# What a screen reader is told of a control: its own label, or that around it.
UNNAMED = """
() => [...document.querySelectorAll("button, input, select, textarea, summary, progress")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !(one.getAttribute("aria-label") || one.labels?.length || one.textContent.trim()))
  .map((one) => one.outerHTML)
"""
# The least contrast of a text with what is below it (WCAG 2.2); colours that are mixed by the style count as they are.
FAINT = """
() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour, below) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const layer of [below, colour]) { canvas.fillStyle = layer; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const css = (colour) => `rgb(${colour.join(",")})`;
  const ground = (one) => {
    if (!one) return matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
    const style = getComputedStyle(one);
    let colour = rgb(style.backgroundColor, css(ground(one.parentElement)));
    const layer = style.backgroundImage.match(/rgba?\\([^)]*\\)/);
    if (layer) colour = rgb(layer[0], css(colour));
    return colour;
  };
  const linear = (value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
  const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
  const faint = [];
  for (const one of document.querySelectorAll("h1, h2, h3, p, label, span, button, figcaption, small")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!own || !one.checkVisibility() || one.matches(":disabled")) continue;
    const below = ground(one);
    const pair = [light(rgb(getComputedStyle(one).color, css(below))), light(below)];
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (contrast < 4.5) faint.push(`${contrast.toFixed(2)} ${one.textContent}`);
  }
  return faint;
}
"""
PLACES = """
() => {
  const cards = [...document.querySelectorAll(".card")];
  return Object.fromEntries(cards.map((one) => [one.dataset.block, one.getBoundingClientRect().toJSON()]));
}
"""
STATE = """
async () => (await fetch(`/api/sessions/${sessionStorage.getItem("bwlab-session")}`)).json()
"""


@pytest.fixture(scope="module")
def address(tiny_pipeline: Path, folder: Path, files: tuple[Path, Path]) -> Iterator[str]:
    """Return the address of a served mixer with fox and ink open."""
    quick = partial(ImageSettings, steps=2, cfg=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bwlab_ui.mixer.ImageSettings", quick)
        with mixing(offered(tiny_pipeline, files, folder=folder)) as mixer, served(mixer) as found:
            yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return a headless Chromium."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Return a browser without anything stored, in which an error of the page fails the test."""
    wrong: list[str] = []
    made = browser.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    made.on("weberror", lambda error: wrong.append(str(error.error)))
    made.on(
        "console", lambda message: wrong.append(message.text) if "Content Security Policy" in message.text else None
    )
    yield made
    made.close()
    assert wrong == []


def opened(context: BrowserContext, address: str) -> Page:
    """Open the page and wait for its images."""
    page = context.new_page()
    page.goto(address)
    version_above(page, "mix", 0)
    expect(page.locator("#full")).to_have_attribute("aria-busy", "false", timeout=1000 * PATIENCE)
    return page


def version(page: Page, kind: str) -> int:
    """Return how many images a figure has shown."""
    return int(page.locator(f"#{kind} img").get_attribute("data-version") or 0)


def version_above(page: Page, kind: str, least: int) -> None:
    """Wait until a figure has shown more images."""
    until(page, lambda: version(page, kind) > least)
    expect(page.locator(f"#{kind}")).to_have_attribute("aria-busy", "false", timeout=1000 * PATIENCE)


def until(page: Page, holds: Any) -> None:
    """Wait until something holds; the page's own rules forbid Playwright's way, which evaluates text."""
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        page.wait_for_timeout(20)


def picture(page: Page, kind: str = "mix") -> str:
    """Return what a figure shows, as the address of its numbers."""
    shown: str = page.evaluate(
        """async (kind) => {
          const image = document.querySelector(`#${kind} img`);
          for (let tries = 0; tries < 40; tries += 1) {
            if (await image.decode().then(() => true, () => false)) break;  // a newer image may take its place
            await new Promise((resolve) => setTimeout(resolve, 50));
          }
          const canvas = document.createElement("canvas");
          [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
          canvas.getContext("2d").drawImage(image, 0, 0);
          return canvas.toDataURL();
        }""",
        kind,
    )
    return shown


def scales(page: Page) -> Any:
    """Return the scales of the first adapter that the server knows."""
    return page.evaluate(STATE)["adapters"][0]["scales"]


def slider(page: Page, label: str) -> Any:
    """Return a slider by the name that a screen reader tells."""
    return page.get_by_role("slider", name=label, exact=True)


def test_a_slider_changes_the_image_and_both_fields_agree(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    before, count, full = picture(page), version(page, "mix"), version(page, "full")
    assert picture(page, "full") == before
    slider(page, "ink, all blocks").fill("0")
    version_above(page, "mix", count)
    assert picture(page) != before
    assert page.get_by_label("ink, all blocks, as a number", exact=True).input_value() == "0"
    count = version(page, "mix")
    page.get_by_label("ink, all blocks, as a number", exact=True).fill("1")
    version_above(page, "mix", count)
    assert picture(page) == before
    assert slider(page, "ink, all blocks").input_value() == "1"
    assert version(page, "full") == full, "the image at full strength does not depend on sliders"


def test_arrow_keys_move_sliders_and_tab_follows_the_drawing(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    slider(page, "fox in in0").focus()
    count = version(page, "mix")
    page.keyboard.press("ArrowLeft")
    version_above(page, "mix", count)
    assert slider(page, "fox in in0").input_value() == "0.95"
    page.keyboard.press("Home")
    assert slider(page, "fox in in0").input_value() == "0"
    names = []
    for _ in range(4):
        page.keyboard.press("Tab")
        names.append(page.evaluate("document.activeElement.getAttribute('aria-label')"))
    assert names == ["fox in in0, as a number", "fox in in1", "fox in in1, as a number", "fox in in2"]


def test_the_blocks_are_drawn_as_a_u(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    place = page.evaluate(PLACES)
    assert place["in0"]["x"] < place["mid"]["x"] < place["out3"]["x"]
    assert [place[f"in{row}"]["y"] for row in range(4)] == sorted(place[f"in{row}"]["y"] for row in range(4))
    assert abs(place["in0"]["y"] - place["out3"]["y"]) < 2
    assert place["mid"]["y"] > max(place["in3"]["y"], place["out0"]["y"])
    until(page, lambda: page.locator("#colour option").count() > 2)
    page.select_option("#colour", "energy/energy of ink")
    values = page.locator(".card[data-block=out3] .value")
    assert 0 < float(values.inner_text()) <= 1
    assert page.locator(".card[data-block=in0] .value").inner_text() == ""
    fill = "getComputedStyle(document.querySelector('.card[data-block={}]')).getPropertyValue('--strength')"
    assert float(page.evaluate(fill.format("out3"))) > float(page.evaluate(fill.format("in0"))) == 0


def test_a_reload_keeps_everything(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    for name, value in (("cfg", "2"), ("steps", "3")):
        count = version(page, "mix")
        page.fill(f"#{name}", value)
        version_above(page, "mix", count)
    count = version(page, "mix")
    slider(page, "fox in mid").fill("0.3")
    page.fill("#prompt", "a blue fox")
    version_above(page, "mix", count + (version(page, "mix") == count + 1))
    page.wait_for_timeout(600)
    expect(page.locator("#mix")).to_have_attribute("aria-busy", "false")
    before = picture(page)
    page.reload()
    version_above(page, "mix", 0)
    assert slider(page, "fox in mid").input_value() == "0.3"
    assert page.input_value("#prompt") == "a blue fox"
    assert (page.input_value("#cfg"), page.input_value("#steps")) == ("2", "3")
    assert picture(page) == before


def test_two_tabs_do_not_mix_and_a_duplicated_one_begins_with_a_copy(context: BrowserContext, address: str) -> None:
    first, second = opened(context, address), opened(context, address)
    for page, scale in ((first, "0.1"), (second, "1.9")):
        count = version(page, "mix")
        slider(page, "fox, all blocks").fill(scale)
        version_above(page, "mix", count)
    assert picture(first) != picture(second)
    stored = first.evaluate("sessionStorage.getItem('bwlab-session')")
    third = context.new_page()
    third.add_init_script(f"if (!sessionStorage.length) sessionStorage.setItem('bwlab-session', {json.dumps(stored)})")
    third.goto(address)
    version_above(third, "mix", 0)
    assert third.evaluate("sessionStorage.getItem('bwlab-session')") != stored
    assert slider(third, "fox, all blocks").input_value() == "0.1"
    count = version(third, "mix")
    slider(third, "fox, all blocks").fill("0.7")
    version_above(third, "mix", count)
    for page, scale in ((first, "0.1"), (second, "1.9")):
        page.reload()
        version_above(page, "mix", 0)
        assert slider(page, "fox, all blocks").input_value() == scale


def test_the_newest_position_of_a_slider_wins(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    page.fill("#steps", "150")
    for value in ("0.2", "0.4", "0.6"):
        page.wait_for_timeout(250)  # longer than the pause after which an image is asked for
        slider(page, "fox, all blocks").fill(value)
    count = version(page, "mix")
    page.get_by_role("button", name="Stop").click()
    page.wait_for_timeout(300)
    assert version(page, "mix") == count
    expect(page.locator("#mix")).to_have_attribute("aria-busy", "false")
    page.fill("#steps", "2")
    version_above(page, "mix", count)
    assert version(page, "mix") == count + 1
    state = page.evaluate(STATE)
    assert state["adapters"][0]["scales"]["whole"] == 0.6


def test_blocks_one_by_one_can_be_cancelled_and_chosen(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    count = version(page, "mix")
    page.fill("#steps", "25")  # so that the images are not done before they are cancelled
    version_above(page, "mix", count)
    count = version(page, "mix")
    page.get_by_role("button", name="Another seed").click()
    version_above(page, "mix", count)
    page.get_by_role("button", name="Make the images").click()
    page.locator(".thumb").first.wait_for(timeout=1000 * PATIENCE)
    page.get_by_role("button", name="Cancel the images of the blocks").click()
    expect(page.locator("[data-job=strip]")).to_contain_text("Cancelled", timeout=1000 * PATIENCE)
    assert 0 < page.locator(".thumb").count() < 2 * (11 + 2)
    count = version(page, "mix")
    page.get_by_role("button", name="Only fox in in0: set the sliders").click()
    version_above(page, "mix", count)
    assert (slider(page, "fox in in0").input_value(), slider(page, "fox in mid").input_value()) == ("1", "0")
    assert slider(page, "ink, all blocks").input_value() == "0"
    page.get_by_role("button", name="Undo").click()
    assert slider(page, "fox in mid").input_value() == "1"


@pytest.mark.parametrize("advised", [True, False])
def test_advice_moves_the_sliders_or_says_to_leave_them(
    context: BrowserContext, address: str, monkeypatch: pytest.MonkeyPatch, advised: bool
) -> None:
    """The search itself is tested without a browser; here is what the page does with its result."""

    def found(_: object, search: advice.Search, __: object, job: Job) -> object:
        job.report(5, search.budget, "both whole")
        scales = [
            AdapterScales(blocks={"mid": 1.5}, cells={"out3.0": 0.5}),
            AdapterScales(whole=0.7, schedule="0.5-1:1"),
        ]
        given = [scale.model_dump() for scale in scales] if advised else None
        text = "Use the scales below." if advised else "Leave both as they are."
        return {"text": text, "advised": advised, "tried": 5, "own_images": True, "scales": given}

    monkeypatch.setattr(advice, "work", found)
    page = opened(context, address)
    page.get_by_role("button", name="Find the scales").click()
    verdict = page.locator("#advice .verdict")
    verdict.wait_for(timeout=1000 * PATIENCE)
    assert verdict.inner_text() == ("Use the scales below." if advised else "Leave both as they are.")
    assert slider(page, "fox in mid").input_value() == ("1.5" if advised else "1")
    if not advised:
        return
    assert slider(page, "ink, all blocks").input_value() == "0.7"
    count = version(page, "mix")
    page.get_by_role("button", name="Remove schedule 0.5-1:1 of ink").click()
    version_above(page, "mix", count)
    assert page.get_by_role("button", name="Remove out3.0 at 0.5 of fox").count() == 1
    assert slider(page, "fox in out3").input_value() == "0.5"
    count = version(page, "mix")
    slider(page, "fox in out3").fill("0.2")  # the whole block, in place of its part
    version_above(page, "mix", count)
    assert page.locator(".chip").count() == 0
    until(page, lambda: scales(page)["blocks"].get("out3") == 0.2)  # an earlier change may have made the image
    assert scales(page)["cells"] == {}
    page.get_by_role("button", name="Undo").click()
    assert slider(page, "fox in mid").input_value() == "1"


def test_an_exported_adapter_opened_again_gives_the_same_image(
    context: BrowserContext, address: str, tmp_path: Path
) -> None:
    page = opened(context, address)
    count = version(page, "mix")
    slider(page, "fox, all blocks").fill("0")
    version_above(page, "mix", count)
    count = version(page, "mix")
    slider(page, "ink in mid").fill("0.5")
    version_above(page, "mix", count)
    wanted = picture(page)
    page.locator("#exporting summary").click()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download ink with these scales").click()
    waiting.value.save_as(tmp_path / "mine.safetensors")
    assert page.get_by_label("ink, block spec", exact=True).input_value() == "*=1, mid=0.5"
    assert "bwlab generate --base" in page.get_by_label("bwlab generate", exact=True).input_value()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download the ComfyUI workflow").click()
    flow = json.loads(waiting.value.path().read_text())
    assert [step["class_type"] for step in flow.values()].count("BwlabLoadAdapter") == 2
    for name in ("ink", "fox"):
        page.get_by_role("button", name=f"Close {name}", exact=True).click()
        expect(page.locator(".adapter .name", has_text=name)).to_have_count(0)
    page.set_input_files("#files", tmp_path / "mine.safetensors")
    slider(page, "mine in out3").wait_for(timeout=1000 * PATIENCE)
    until(page, lambda: picture(page) == wanted)


def test_a_file_that_is_no_adapter_is_one_line(context: BrowserContext, address: str, tmp_path: Path) -> None:
    page = opened(context, address)
    bad = tmp_path / "<b>bad.safetensors"
    bad.write_bytes(b"\x80\x02}q\x00.")
    page.set_input_files("#files", bad)
    error = page.get_by_role("alert")
    error.wait_for(timeout=1000 * PATIENCE)
    assert "_b_bad.safetensors" in error.inner_text()
    assert page.locator(".adapter").count() == 2
    page.select_option("#folder", "words.safetensors")
    slider(page, "words in te").wait_for(timeout=1000 * PATIENCE)
    assert error.is_hidden()


def test_an_error_stays_while_other_things_are_at_work(
    context: BrowserContext, address: str, folder: Path, tmp_path: Path
) -> None:
    page = opened(context, address)
    bad, good = tmp_path / "bad.safetensors", tmp_path / "good.safetensors"
    bad.write_bytes(b"no adapter")
    shutil.copy(folder / "ink.safetensors", good)
    count = version(page, "mix")
    page.set_input_files("#files", [bad, good])
    slider(page, "good, all blocks").wait_for(timeout=1000 * PATIENCE)
    version_above(page, "mix", count)
    page.wait_for_timeout(700)  # the page asks how far the work is every 0.3 s
    assert "bad.safetensors" in page.get_by_role("alert").inner_text()
    page.get_by_role("button", name="Close good", exact=True).click()
    expect(page.get_by_role("alert")).to_be_hidden()


def test_sliders_count_beside_a_setting_that_is_wrong(context: BrowserContext, address: str) -> None:
    page = opened(context, address)
    page.fill("#steps", "")
    count = version(page, "mix")
    slider(page, "fox in out3").fill("0")
    version_above(page, "mix", count)
    until(page, lambda: scales(page)["blocks"].get("out3") == 0)
    assert page.evaluate(STATE)["settings"]["steps"] == 2
    assert page.get_by_role("alert").is_hidden()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_is_legible_and_every_control_has_a_name(
    browser: Browser, address: str, width: int, scheme: Any
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = opened(context, address)
    page.locator("#exporting summary").click()
    page.get_by_label("bwlab generate", exact=True).wait_for(timeout=1000 * PATIENCE)
    until(page, lambda: page.locator("#colour option").count() > 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(UNNAMED) == []
    assert page.evaluate(FAINT) == []
    if width == 390:
        slider(page, "fox in mid").scroll_into_view_if_needed()
        assert page.locator("#mix img").is_visible()
        box = page.locator("#mix img").bounding_box()
        assert box is not None
        assert 0 <= box["y"] < 200, "the image stays in sight while sliders move"
    context.close()


def test_the_password_opens_the_page(browser: Browser, mixer: Mixer) -> None:
    with served(mixer, SECRET) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(address)
        assert page.url.endswith("/login")
        page.get_by_label("Password").fill("wrong password")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_contain_text("the password is wrong")
        page.get_by_label("Password").fill(SECRET)
        page.keyboard.press("Enter")
        version_above(page, "mix", 0)
        (cookie,) = context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        context.close()
