"""What the server makes for a page: images, measures, knock-ins, advice and files."""

from __future__ import annotations

import io
import json
import shlex
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from bwlab.cli.app import main
from bwlab.errors import BwlabError
from bwlab_analysis.fidelity.recommend import least_budget
from bwlab_comfyui.nodes import NODES
from bwlab_ui import exports
from bwlab_ui.mixer import Mixer, shape
from bwlab_ui.session import MOST_ADAPTERS, Newest, Session, Sessions
from bwlab_ui.settings import AdapterScales, ImageSettings
from bwlab_ui.strip import conditions
from bwlab_ui.turns import Cancelled, Turns
from bwlab_ui.work import Job, Worker
from tests.options.made import images
from tests.ui.served import body, client_of, finished, mixing, offered, opened


def pixels(data: bytes | Path) -> np.ndarray:
    """Return the numbers of an image."""
    with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def image_of(client: TestClient, session: str, request: dict[str, object], kind: str = "mix") -> np.ndarray:
    """Return an image that a page asks for."""
    answer = client.post(f"/api/sessions/{session}/images/{kind}", json=request)
    assert answer.status_code == 200, answer.text
    return pixels(answer.content)


def test_an_image_follows_the_sliders(mixer: Mixer) -> None:
    client = client_of(mixer)
    session = opened(client)["id"]
    whole = image_of(client, session, body(1, 1, 1))
    off = image_of(client, session, body(2, 0, 0))
    one_block = body(3, 1, 1)
    one_block["scales"][0]["blocks"] = {"out3": 0.0}
    changed = image_of(client, session, one_block)
    late = body(4, 1, 1)
    late["scales"][0]["schedule"] = "0.5-1:1"
    assert len({array.tobytes() for array in (whole, off, changed, image_of(client, session, late))}) == 4
    assert (image_of(client, session, body(5, 0.3, 2), "full") == whole).all()
    assert (image_of(client, session, body(6, 1, 1)) == whole).all()


def test_a_changed_text_encoder_changes_the_image(mixer: Mixer) -> None:
    client = client_of(mixer)
    session = opened(client)["id"]
    state = client.post(f"/api/sessions/{session}/open", json={"name": "words.safetensors"}).json()
    assert state["adapters"][2]["blocks"] == ["te", "mid"]
    request = body(1, 0, 0, 1)
    with_words = image_of(client, session, request)
    request["number"], request["scales"][2]["blocks"] = 2, {"te": 0.0}
    assert (image_of(client, session, request) != with_words).any()


def test_the_state_is_kept_and_a_copy_goes_its_own_way(mixer: Mixer) -> None:
    client = client_of(mixer)
    session = opened(client)["id"]
    image_of(client, session, body(1, 0.25, 1, seed=7))
    copied = client.post("/api/sessions", json={"like": session}).json()
    assert copied["id"] != session
    image_of(client, copied["id"], body(1, 0.75, 1, seed=8))
    for name, scale, seed in ((session, 0.25, 7), (copied["id"], 0.75, 8)):
        state = client.get(f"/api/sessions/{name}").json()
        assert (state["adapters"][0]["scales"]["whole"], state["settings"]["seed"]) == (scale, seed)


def test_a_newer_request_cancels_an_older_one_between_two_steps(mixer: Mixer) -> None:
    client = client_of(mixer)
    session = opened(client)["id"]
    newest = mixer.sessions.get(session).images["mix"]
    answers = []
    older = threading.Thread(
        target=lambda: answers.append(
            client.post(f"/api/sessions/{session}/images/mix", json=body(1, 1, 1, steps=150, seed=3))
        )
    )
    older.start()
    while newest.progress is None:
        time.sleep(0.005)
    newer = client.post(f"/api/sessions/{session}/images/mix", json=body(2, 1, 1, seed=3))
    older.join()
    assert (answers[0].status_code, newer.status_code) == (409, 200)
    assert answers[0].json() == {"cancelled": True}
    assert client.post(f"/api/sessions/{session}/images/mix", json=body(1, 0, 0)).status_code == 409
    assert client.get(f"/api/sessions/{session}").json()["adapters"][0]["scales"]["whole"] == 1


def test_stopping_ends_an_image(mixer: Mixer) -> None:
    client = client_of(mixer)
    session = opened(client)["id"]
    answers = []
    asking = threading.Thread(
        target=lambda: answers.append(
            client.post(f"/api/sessions/{session}/images/mix", json=body(1, 1, 1, steps=150, seed=4))
        )
    )
    asking.start()
    while client.get(f"/api/sessions/{session}/running").json()["images"]["mix"] is None:
        time.sleep(0.005)
    assert client.delete(f"/api/sessions/{session}/images/mix").status_code == 200
    asking.join()
    assert answers[0].status_code == 409
    assert client.get(f"/api/sessions/{session}/running").json()["images"]["mix"] is None


def test_an_exported_file_at_scale_1_makes_the_image_of_the_sliders(
    mixer: Mixer, tiny_pipeline: Path, tmp_path: Path
) -> None:
    client = client_of(mixer)
    session = opened(client)["id"]
    request = body(1, 1.5, 0.5)
    request["scales"][0]["blocks"] = {"out3": 0.4, "in0": 0.0}
    seen = image_of(client, session, request)
    written = []
    for place, name in enumerate(("fox", "ink")):
        answer = client.get(f"/api/sessions/{session}/adapters/{place}/file")
        assert answer.status_code == 200
        assert f'filename="{name}-mixed.safetensors"' in answer.headers["content-disposition"]
        written.append(tmp_path / f"{name}.safetensors")
        written[-1].write_bytes(answer.content)
    with mixing(offered(tiny_pipeline, (written[0], written[1]))) as other:
        again = client_of(other)
        loaded = image_of(again, opened(again)["id"], body(1, 1, 1))
    assert np.abs(loaded - seen).max() <= 2, "rounding of folded scales"
    assert (image_of(client, session, body(2, 1, 1)) != loaded).any()
    assert not list(Path(mixer.uploads._folder.name).rglob("*-mixed.safetensors"))


def test_the_line_of_bwlab_generate_makes_the_image_of_the_page(
    mixer: Mixer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = client_of(mixer)
    session = opened(client)["id"]
    request = body(1, 1.5, 0.5)
    request["scales"][0] |= {"blocks": {"out3": 0.4}, "schedule": "0-0.5:1"}
    seen = image_of(client, session, request)
    told = client.get(f"/api/sessions/{session}/exports").json()
    words = shlex.split(told["command"])
    with pytest.raises(SystemExit) as ended:
        main([*words[1:], "--out", str(tmp_path), "--device", "cpu"])
    assert not ended.value.code
    (image,) = tmp_path.glob("*.png")
    assert np.abs(pixels(image) - seen).max() <= 2
    refused = client.get(f"/api/sessions/{session}/adapters/0/file")
    assert "change over the steps" in refused.json()["error"]["found"]


def test_scales_are_told_in_every_notation(mixer: Mixer) -> None:
    client = client_of(mixer)
    session = opened(client)["id"]
    request = body(1, 1, 0)
    request["scales"][0]["blocks"] = {"mid": 0.5}
    image_of(client, session, request)
    told = client.get(f"/api/sessions/{session}/exports").json()
    fox, ink = told["adapters"]
    lines = {line["label"]: line for line in fox["lines"]}
    assert list(lines) == ["block spec", "LoRA Block Weight", "prompt tag", "diffusers' set_adapters"]
    assert lines["block spec"]["text"] == "*=1, mid=0.5"
    assert lines["LoRA Block Weight"]["text"] is None
    assert "two layers per block" in lines["LoRA Block Weight"]["notes"][0]
    assert ink["lines"][0]["text"] == "*=0"
    everything_off = client.get(f"/api/sessions/{session}/adapters/1/file").json()["error"]
    assert "scale 0" in everything_off["found"]


def test_lists_of_stable_diffusion_have_all_their_numbers() -> None:
    from bwlab.base.names import base_unet
    from bwlab.blocks.families import scheme_for
    from bwlab.plugins.manager import build_manager

    scheme = scheme_for(base_unet("sd14").config, build_manager().block_schemes())
    scales = [AdapterScales(blocks={"out3": 0.5})]
    told = exports.texts("sd14", [Path("fox.safetensors")], ["fox"], scales, ImageSettings(), scheme, 512)
    texts = {line["label"]: line["text"] for line in told["adapters"][0]["lines"]}
    numbers = texts["LoRA Block Weight"]
    assert numbers.split(",")[-3:] == ["0.5"] * 3
    assert texts["prompt tag"] == f"<lora:fox:1:lbw={numbers}>"
    assert told["workflow"]["2"]["inputs"]["scale"] == "*=1, out3=0.5"


def test_exports_name_files_that_there_are() -> None:
    from bwlab.base.names import base_unet
    from bwlab.blocks.families import scheme_for
    from bwlab.plugins.manager import build_manager

    scheme = scheme_for(base_unet("sd14").config, build_manager().block_schemes())
    runs = [Path("runs/fox/adapter.safetensors"), Path("runs/ink/adapter.safetensors"), Path("/tmp/1/owl.safetensors")]
    names, scales = ["fox", "ink", "owl"], [AdapterScales(schedule="0-0.5:1"), AdapterScales(), AdapterScales()]
    words = {runs[1]: ["<s1>", "<s2>"]}
    told = exports.texts("sd14", runs, names, scales, ImageSettings(), scheme, 512, words, [runs[2]])
    loaders = [step["inputs"]["adapter"] for step in told["workflow"].values() if step["class_type"] == exports.LOADER]
    assert loaders == ["fox.safetensors", "ink.safetensors", "owl.safetensors"]
    tags = [line["text"] for own in told["adapters"] for line in own["lines"] if line["label"] == "prompt tag"]
    assert [tag.split(":")[1] for tag in tags] == names
    command = shlex.split(told["command"])
    assert [word for word in command if word.endswith(".safetensors")] == [*map(str, runs[:2]), "owl.safetensors"]
    fox, ink, owl = (own["notes"] for own in told["adapters"])
    assert fox == [
        "The schedule 0-0.5:1 is in the bwlab generate line only.",
        f"The prompt tag and the workflow call it fox.safetensors: give your copy of {runs[0]} this name.",
    ]
    assert ink[0] == "Its words <s1>, <s2> are in the original file only; bwlab convert writes them beside it."
    assert owl == ["It was uploaded: in the bwlab generate line, give the path of your own owl.safetensors."]


def test_a_transformer_has_no_workflow() -> None:
    from bwlab.base.names import base_unet
    from bwlab.blocks.families import scheme_for
    from bwlab.plugins.manager import build_manager

    scheme = scheme_for(base_unet("emoji-dit").config, build_manager().block_schemes())
    given = "emoji-dit", [Path("fox.safetensors")], ["fox"], [AdapterScales()], ImageSettings()
    assert exports.texts(*given, scheme, 64)["workflow"] is None


def test_the_workflow_uses_the_node_as_it_is() -> None:
    node = next(node for node in NODES if node.name == exports.LOADER)
    from bwlab.base.names import base_unet
    from bwlab.blocks.families import scheme_for
    from bwlab.plugins.manager import build_manager

    scheme = scheme_for(base_unet("sd14").config, build_manager().block_schemes())
    files, specs = ["a.safetensors", "b.safetensors"], [AdapterScales(whole=0.5).spec(scheme)] * 2
    flow = exports.workflow("base.safetensors", files, specs, ImageSettings(prompt="a fox", seed=3), 768)
    loaders = {number: step for number, step in flow.items() if step["class_type"] == exports.LOADER}
    assert [step["inputs"]["adapter"] for step in loaders.values()] == ["a.safetensors", "b.safetensors"]
    for step in loaders.values():
        assert set(step["inputs"]) == {entry.name for entry in node.inputs}
        assert step["inputs"]["scale"] == "*=0.5"
    links = [value for step in flow.values() for value in step["inputs"].values() if isinstance(value, list)]
    assert all(number in flow for number, _ in links)
    (latent,) = (step["inputs"] for step in flow.values() if step["class_type"] == "EmptyLatentImage")
    assert latent == {"width": 768, "height": 768, "batch_size": 1}
    (sampler,) = (step["inputs"] for step in flow.values() if step["class_type"] == "KSampler")
    assert (sampler["model"], sampler["seed"]) == (["3", 0], 3)
    assert json.loads(json.dumps(flow)) == flow


def test_measures_colour_the_blocks(mixer: Mixer) -> None:
    client = client_of(mixer)
    session = opened(client)["id"]
    image_of(client, session, body(1, 1, 1))
    assert client.post(f"/api/sessions/{session}/jobs/weights", json={}).status_code == 200
    groups = finished(client, session, "weights")["result"]
    energy = groups["energy"]["energy of ink"]
    assert set(energy) == {"mid", "out3"}
    assert max(strength for _, strength in energy.values()) == 1
    assert "cosine (weights)" in groups["conflict"]
    client.post(f"/api/sessions/{session}/jobs/measure", json={})
    job = finished(client, session, "measure")
    assert job["state"] == "done", job
    assert set(job["result"]["effect"]) == {"effect of fox", "effect of ink"}
    assert "share that fox loses beside ink" in job["result"]["conflict"]
    assert set(job["result"]["conflict"]) > set(groups["conflict"])
    assert client.get(f"/api/sessions/{session}").json()["measures"] == job["result"]


def test_each_block_is_shown_alone_and_off(mixer: Mixer) -> None:
    client = client_of(mixer)
    session = opened(client)
    image_of(client, session["id"], body(1, 1, 1))
    client.post(f"/api/sessions/{session['id']}/jobs/strip", json={})
    job = finished(client, session["id"], "strip")
    blocks = [len(adapter["blocks"]) for adapter in session["adapters"]]
    assert (job["state"], job["done"], len(job["result"])) == ("done", 2 * sum(blocks), 2 * sum(blocks))
    assert {image["image"][:22] for image in job["result"]} == {"data:image/png;base64,"}


def test_what_a_condition_turns_off() -> None:
    shown = conditions(["fox", "ink"], [["in0", "mid"], ["mid"]])
    assert [(one["adapter"], one["block"], one["way"]) for one, _ in shown][:3] == [
        (0, "in0", "alone"),
        (0, "mid", "alone"),
        (1, "mid", "alone"),
    ]
    alone, off = shown[0][1], shown[3][1]
    assert (alone[0].blocks, alone[1].whole) == ({"in0": 1.0, "mid": 0.0}, 0.0)
    assert (off[0].blocks, off[1]) == ({"in0": 0.0}, AdapterScales())


def test_a_job_is_cancelled_between_two_images(mixer: Mixer) -> None:
    client = client_of(mixer)
    session = opened(client)["id"]
    image_of(client, session, body(1, 1, 1, seed=99))
    client.post(f"/api/sessions/{session}/jobs/strip", json={})
    while not client.get(f"/api/sessions/{session}/jobs/strip").json()["result"]:
        time.sleep(0.01)
    client.delete(f"/api/sessions/{session}/jobs/strip")
    job = finished(client, session, "strip")
    assert job["state"] == "cancelled"
    assert 0 < job["done"] < job["total"]
    assert job["result"]


def test_the_search_says_what_it_found(
    tiny_pipeline: Path, files: tuple[Path, Path], clip: Path, tmp_path: Path
) -> None:
    """With so few images it tries the usual change only, which does not help adapters with random weights."""
    data = {
        "fox": images(tmp_path / "fox", ("fox", "panda"), "noto"),
        "ink": images(tmp_path / "ink", ("fox",), "ink"),
    }
    with mixing(offered(tiny_pipeline, files, clip=str(clip), data=data)) as mixer:
        client = client_of(mixer)
        session = opened(client)["id"]
        image_of(client, session, body(1, 1, 1, steps=1))
        client.post(f"/api/sessions/{session}/jobs/advice", json={"budget": 3})
        refused = finished(client, session, "advice")
        assert (refused["state"], "Give 32 or more" in refused["error"]["fix"]) == ("failed", True)
        client.post(f"/api/sessions/{session}/jobs/advice", json={"budget": 40})
        client.post(f"/api/sessions/{session}/roles", json={"identity": 1, "style": 0})
        job = finished(client, session, "advice")
    assert job["state"] == "done", job["error"]
    assert job["result"] == {
        "text": "Leave both as they are: none of 2 compositions is better than both at scale 1.",
        "advised": False,
        "tried": 2,
        "own_images": False,
        "scales": None,
        "adapters": [0, 1],  # those of the search, whatever the roles are now
    }


@pytest.mark.parametrize(
    ("spec", "whole", "blocks", "cells"),
    [
        ("1", 1, {}, {}),
        ("upper=1.2, *=0.7", 0.7, {"out3": 1.71428571}, {}),
        ("mid=2.4, *=1.6", 1.6, {"mid": 1.5}, {}),
        ("*=0", 1, {"mid": 0}, {}),
        ("out3.1=0, *=1", 1, {}, {"out3.1": 0}),
    ],
)
def test_sliders_mean_the_spec_that_was_advised(
    mixer: Mixer, spec: str, whole: float, blocks: dict[str, float], cells: dict[str, float]
) -> None:
    from bwlab.blocks.spec import parse_spec

    scheme = mixer.models.model(mixer.models.names[0]).loaded.scheme
    scales = AdapterScales.of_spec(spec, "0-0.5:1", scheme)
    assert (scales.whole, scales.schedule) == (whole, "0-0.5:1")
    assert blocks.items() <= dict(scales.blocks).items()
    assert cells.items() <= dict(scales.cells).items()
    wanted = parse_spec(spec, scheme, kind="scale", default=1.0).values
    assert scales.spec(scheme).values == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("spec", ["mid=9, *=1", "mid=-1, *=1"])
def test_scales_that_no_slider_reaches_are_refused(mixer: Mixer, spec: str) -> None:
    scheme = mixer.models.model(mixer.models.names[0]).loaded.scheme
    with pytest.raises(BwlabError, match="out of their range"):
        AdapterScales.of_spec(spec, "", scheme)


def test_a_base_that_an_open_adapter_does_not_fit_is_not_taken(files: tuple[Path, Path], tiny_pipeline: Path) -> None:
    from bwlab_ui.mixer import Offer

    with mixing(Offer((str(tiny_pipeline), "emoji"), files)) as mixer:
        client = client_of(mixer)
        session = opened(client)["id"]
        answer = client.post(f"/api/sessions/{session}/base", json={"base": "emoji"})
        assert answer.status_code == 400
        assert client.get(f"/api/sessions/{session}").json()["base"] == str(tiny_pipeline)
        for _ in files:
            client.delete(f"/api/sessions/{session}/adapters/0")
        state = client.post(f"/api/sessions/{session}/base", json={"base": "emoji"}).json()
        assert (state["base"], state["shape"]["kind"], state["adapters"]) == ("emoji", "u", [])


def test_a_transformer_is_drawn_as_a_column() -> None:
    from bwlab.base.names import base_unet
    from bwlab.blocks.families import scheme_for
    from bwlab.plugins.manager import build_manager

    scheme = scheme_for(base_unet("emoji-dit").config, build_manager().block_schemes())
    drawn = shape(scheme)
    assert (drawn["kind"], len(drawn["lists"][0]), drawn["others"]) == ("column", 12, ["te", "rest"])


def test_there_are_as_many_adapters_as_colours(files: tuple[Path, Path]) -> None:
    session = Session("emoji")
    for _ in range(MOST_ADAPTERS):
        session.add(files[0])
    with pytest.raises(BwlabError, match="Close one"):
        session.add(files[0])
    session.style = 0
    with pytest.raises(BwlabError, match="both roles"):
        _ = session.pair


def test_the_session_unused_for_longest_makes_room() -> None:
    sessions = Sessions(most=2)
    first, second = (sessions.add(Session("emoji")) for _ in range(2))
    sessions.get(first.id)
    sessions.add(Session("emoji"))
    assert sessions.get(first.id) is first
    with pytest.raises(BwlabError, match="not known"):
        sessions.get(second.id)


def test_an_older_request_is_not_begun() -> None:
    newest = Newest()
    with newest.request(2) as check:
        check()
        with newest.request(3), pytest.raises(Cancelled):
            check()
    with pytest.raises(Cancelled), newest.request(3):
        raise AssertionError


def test_images_come_before_long_work_and_a_cancelled_job_gives_its_turn_back() -> None:
    turns, order, job = Turns(), [], Job("strip")

    def image() -> None:
        with turns.at_once(lambda: None):
            order.append("image")

    thread = threading.Thread(target=image)

    def work() -> None:
        with turns.between(job.check):
            thread.start()
            while not turns._hurried:
                time.sleep(0.001)
            turns.let_others(job.check)
            order.append("work")
            job.cancel()
            turns.let_others(job.check)

    with pytest.raises(Cancelled):
        work()
    thread.join()
    assert order == ["image", "work"]
    with turns.at_once(lambda: None):
        order.append("free")


def test_jobs_wait_for_each_other_and_one_that_waits_is_never_begun() -> None:
    worker, begun, go = Worker(), [], threading.Event()

    def work(job: Job) -> object:
        begun.append(job.kind)
        go.wait(10)
        job.report(1, 1)
        return None

    first, second = worker.start(Job("first"), work), worker.start(Job("second"), work)
    while not begun:
        time.sleep(0.001)
    second.cancel()
    go.set()
    worker.stop()
    assert (begun, first.state, second.state) == (["first"], "cancelled", "cancelled")


def test_a_defect_in_a_job_is_said_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    worker = Worker()

    def work(_: Job) -> object:
        raise ZeroDivisionError

    job = worker.start(Job("strip"), work)
    while job.active:
        time.sleep(0.001)
    worker.stop()
    assert (job.state, job.error["found"]) == ("failed", "ZeroDivisionError: ZeroDivisionError")
    assert "a job failed" in caplog.text


def test_the_smallest_search_is_the_one_that_bwlab_takes() -> None:
    assert least_budget(prompts=1) == 32
