"""Latents and text embeddings on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from bwlab.base.conditioning import encode_texts
from bwlab.base.load import load_base
from bwlab.base.text_chunks import TextReading
from bwlab.dataset.latents import TensorCache, encode_captions, read_tensors, tokenizer_hash
from bwlab.errors import BwlabError
from bwlab.images import read_image_tensor
from tests.conftest import tiny_tokenizer
from tests.dataset.loaded import entries, load, settings
from tests.dataset.small_data import WriteData
from tests.forked import PROCESSES

if TYPE_CHECKING:
    from multiprocessing.synchronize import Barrier

    from bwlab.base.architectures import Pipeline


def test_entries_are_the_outputs_of_the_models(pipe: Pipeline, two_images: Path, tmp_path: Path) -> None:
    data, _ = load(settings(two_images, f"data.cache={tmp_path / 'cache'}"), pipe)
    scale = pipe.vae.config.scaling_factor
    for index, name in enumerate(["fox", "owl"]):
        with torch.no_grad():
            posterior = pipe.vae.encode(read_image_tensor(two_images / f"{name}.png", 32)[None]).latent_dist
        torch.testing.assert_close(data.images[index].plain.mean, posterior.mean[0] * scale)
        torch.testing.assert_close(data.images[index].plain.deviation, posterior.std[0] * scale)
        assert data.images[index].mirrored is None


@pytest.mark.parametrize("base", ["pipe", "xl_pipe"])
def test_captions_are_what_the_encoders_say(base: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    pipe: Pipeline = request.getfixturevalue(base)
    for _ in range(2):  # computed, then kept
        found = encode_captions(["ink, fox", ""], pipe, TensorCache(tmp_path), TextReading())
        for caption in ("ink, fox", ""):
            with torch.no_grad():
                wanted = encode_texts(pipe, [caption])
            assert torch.equal(found[caption].context, wanted.context)
            assert (found[caption].pooled is None) == (wanted.pooled is None) == (base == "pipe")
            if wanted.pooled is not None:
                assert torch.equal(found[caption].pooled, wanted.pooled)  # type: ignore[arg-type]


def test_the_second_time_nothing_is_computed(
    pipe: Pipeline, two_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings(two_images, f"data.cache={tmp_path / 'cache'}")
    first, _ = load(config, pipe)
    texts = encode_captions(["fox"], pipe, TensorCache(tmp_path / "cache"), TextReading())

    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(pipe.vae, "encode", refuse)
    monkeypatch.setattr(pipe, "encode_prompt", refuse)
    second, _ = load(config, pipe)
    for one, other in zip(first.images, second.images, strict=True):
        assert torch.equal(one.plain.mean, other.plain.mean)
        assert torch.equal(one.plain.deviation, other.plain.deviation)
    again = encode_captions(["fox"], pipe, TensorCache(tmp_path / "cache"), TextReading())
    assert torch.equal(texts["fox"].context, again["fox"].context)


def test_other_content_is_another_entry(pipe: Pipeline, two_images: Path, tmp_path: Path) -> None:
    cache = f"data.cache={tmp_path / 'cache'}"

    def kept(*sets: str) -> int:
        load(settings(two_images, cache, *sets), pipe)
        return len(entries(tmp_path / "cache" / "latents"))

    assert kept() == 2
    assert kept("data.resolution=16") == 4
    assert kept("data.flip=true") == 6
    assert kept("data.resolution=64", "data.random_crop=true") == 8  # 41 x 37 images are encoded as 68 x 64
    assert kept("data.resolution=64", "data.random_crop=true", "data.buckets=true") == 8
    (two_images / "fox.png").write_bytes((two_images / "owl.png").read_bytes())
    assert kept() == 8


def test_other_weights_and_tokens_are_another_entry(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    changed, cache = load_base(tiny_pipeline), TensorCache(tmp_path / "cache")
    config = settings(two_images, f"data.cache={tmp_path / 'cache'}")
    for count in (2, 4):
        load(config, changed)
        encode_captions(["fox", "owl"], changed, cache, TextReading())
        assert len(entries(tmp_path / "cache" / "latents")) == count
        assert len(entries(tmp_path / "cache" / "text")) == count
        with torch.no_grad():
            changed.vae.quant_conv.bias[1] += 1
            changed.text_encoder.get_input_embeddings().weight[3, 5] += 1


def test_the_hash_of_a_tokenizer_depends_on_its_tokens() -> None:
    tokenizer = tiny_tokenizer()
    before = tokenizer_hash(tokenizer)
    assert tokenizer_hash(tiny_tokenizer()) == before
    tokenizer.add_tokens("<fox>")
    assert tokenizer_hash(tokenizer) != before


@pytest.mark.parametrize("damage", ["empty", "nonsense", "short", "a bit", "other tensors"])
def test_a_damaged_entry_is_made_again(pipe: Pipeline, two_images: Path, tmp_path: Path, damage: str) -> None:
    config = settings(two_images, f"data.cache={tmp_path / 'cache'}")
    first, _ = load(config, pipe)
    for path in entries(tmp_path / "cache"):
        whole = path.read_bytes()
        if damage == "other tensors":
            save_file({"mean": torch.zeros(4, 8, 8)}, path)
        else:
            flipped = bytes([whole[-1] ^ 1])
            made = {"empty": b"", "nonsense": b"nonsense", "short": whole[:-1], "a bit": whole[:-1] + flipped}
            path.write_bytes(made[damage])
    second, _ = load(config, pipe)
    assert torch.equal(first.images[0].plain.mean, second.images[0].plain.mean)
    assert all(read_tensors(path) is not None for path in entries(tmp_path / "cache"))


def test_what_a_killed_run_left_unfinished_is_removed_with_the_next_entry(tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    cache.get("latents", ("x",), lambda: {"a": torch.zeros(3)})
    (entry,) = entries(tmp_path)
    unfinished = entry.with_name(f".{entry.name}.{'0a' * 16}.tmp")
    unfinished.write_bytes(b"half")
    cache.get("latents", ("x",), lambda: {"a": torch.ones(3)})
    assert unfinished.exists(), "an entry that is there is only read"
    entry.unlink()
    cache.get("latents", ("x",), lambda: {"a": torch.zeros(3)})
    assert not unfinished.exists()
    assert list(entries(tmp_path)) == [entry]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BwlabError, match="folder "):
        TensorCache(tmp_path / "file").get("latents", ("x",), lambda: {"a": torch.zeros(3)})


def fill(folder: Path, ready: Barrier) -> None:
    """Fill a cache with forty entries, beginning with another process."""
    cache = TensorCache(folder)
    ready.wait(120)
    for entry in range(40):
        value = {"mean": torch.full((3, 50, 70), float(entry))}
        found = cache.get("latents", (str(entry),), value.copy)
        assert bool((found["mean"] == entry).all())


def test_two_processes_may_fill_one_cache_at_once(tmp_path: Path) -> None:
    ready = PROCESSES.Barrier(2)
    runs = [PROCESSES.Process(target=fill, args=(tmp_path / "cache", ready)) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(120)
    assert [run.exitcode for run in runs] == [0, 0]
    kept = entries(tmp_path / "cache")
    assert len(kept) == 40
    assert {float(load_file(path)["mean"][0, 0, 0]) for path in kept} == {float(entry) for entry in range(40)}
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path not in kept] == []


def test_broken_images_stop_or_are_left_out(pipe: Pipeline, write_data: WriteData) -> None:
    folder = write_data({"a.png": "fox", "b.png": "owl", "c.png": "cat"})
    (folder / "a.png").write_bytes(b"nonsense")
    (folder / "c.png").write_bytes((folder / "c.png").read_bytes()[:60])  # its head is whole
    with pytest.raises(BwlabError, match=r"image .*a\.png: unreadable"):
        load(settings(folder), pipe)
    data, printed = load(settings(folder, "data.skip_broken=true"), pipe)
    assert [example.path.name for example in data.examples] == ["b.png"]
    assert "a.png" in printed
    assert "c.png" in printed
    (folder / "b.png").write_bytes(b"")
    with pytest.raises(BwlabError, match="none of its images can be read"):
        load(settings(folder, "data.skip_broken=true"), pipe)


def test_latents_that_are_not_finite_are_an_error(tiny_pipeline: Path, two_images: Path, tmp_path: Path) -> None:
    broken = load_base(tiny_pipeline)
    with torch.no_grad():
        broken.vae.quant_conv.bias[1] = float("nan")
    with pytest.raises(BwlabError, match=r"fox\.png: the autoencoder's latents of it are not finite"):
        load(settings(two_images, f"data.cache={tmp_path}"), broken)
    assert entries(tmp_path) == []


def test_every_warning_is_one_line(pipe: Pipeline, write_data: WriteData) -> None:
    folder = write_data({"a.png": "a fox that is far too long for sixteen tokens", "3_sly fox/b.png": None})
    (folder / "c.tiff").write_bytes(b"II*")
    _, printed = load(settings(folder), pipe)
    assert printed.splitlines() == [
        f"1 file left out, as .tiff is not read: {folder / 'c.tiff'}",
        '1 image without a caption, and trained with one such as "sly fox"',
        "1 caption longer than 14 tokens and cut there (data.max_tokens reads more)",
    ]


def test_a_resolution_must_divide_into_latents(pipe: Pipeline, two_images: Path) -> None:
    with pytest.raises(BwlabError, match="Give a multiple of 4, such as 32"):
        load(settings(two_images, "data.resolution=33"), pipe)
