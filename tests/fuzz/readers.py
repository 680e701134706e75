"""Readers that take bytes of a stranger: each returns, or raises the error that it is allowed to raise.

`tests.fuzz.guided` gives them bytes that reach new code; the tests give them the saved corpus.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save

from bwlab.adapters.schedule import parse_schedule
from bwlab.blocks.spec import SPEC_KINDS, parse_spec
from bwlab.config.sources import read_file
from bwlab.dataset.config import DataConfig
from bwlab.dataset.kohya_toml import read_dataset_toml
from bwlab.errors import BwlabError
from bwlab.files import CHECKSUM, checksum
from bwlab.formats.architecture import scheme_of
from bwlab.formats.dialects.textual_inversion import read_embedding
from bwlab.formats.metadata import merged_metadata
from bwlab.formats.pickles import open_pickle
from bwlab.formats.read import read_contents
from bwlab.generation.a1111_syntax import parse_weights
from bwlab.generation.embeddings import check_words
from bwlab.generation.lora_tags import tags_in
from bwlab.generation.prompt_notes import syntax_note
from bwlab.inspection.report import tag_counts, training_summary
from bwlab.training.settings import build_config
from bwlab.training.state import HEADER, check_settings, load_optimizer, load_state
from bwlab_analysis.study.results import TABLES, read_results
from bwlab_analysis.study.stored import ENTRIES, RESULT, checksum_of, fault
from tests.fuzz.guided import CORPUS
from tests.fuzz.pickled import zipped

KEYS = ("ss_tag_frequency", "ss_network_args", "ss_bucket_info", "ss_dataset_dirs", "ss_training_started_at")
NUMBERS = bytes(4096)


@functools.cache
def _folder() -> Path:
    """Return a folder of this process, which readers of files write into."""
    return Path(tempfile.mkdtemp(prefix="bwlab-fuzz-"))


def _file(name: str, content: bytes) -> Path:
    (_folder() / name).write_bytes(content)
    return _folder() / name


@contextlib.contextmanager
def _errors_allowed() -> Iterator[None]:
    """Allow errors for people."""
    with contextlib.suppress(BwlabError):
        yield


def header(content: bytes) -> None:
    """Read an adapter with this header."""
    with _errors_allowed():
        contents = read_contents(_file("header.safetensors", len(content).to_bytes(8, "little") + content + NUMBERS))
        for module in contents.modules.values():
            assert module.shape is None or all(module.shape)


def metadata(content: bytes) -> None:
    """Read this text as each entry of an adapter's metadata that is read."""
    text = content.decode("utf-8", "replace")
    entries = dict.fromkeys(KEYS, text)
    training_summary(entries)
    assert all(math.isfinite(count) for count in tag_counts(entries).values())
    json.loads(json.dumps(merged_metadata([("a", entries), ("b", {**entries, "ss_tag_frequency": "{}"})])))


def adapter_config(content: bytes) -> None:
    """Read an adapter of PEFT beside this config."""
    path = "base_model.model.unet.mid_block.attentions.0.proj_in.lora_"
    shape = {"dtype": "F32", "shape": [2, 2]}
    places = {"A": [0, 16], "B": [16, 32]}
    tensors = {f"{path}{side}.weight": {**shape, "data_offsets": place} for side, place in places.items()}
    text = json.dumps(tensors).encode()
    _file("adapter_config.json", content)
    with _errors_allowed():
        read_contents(_file("peft.safetensors", len(text).to_bytes(8, "little") + text + bytes(32)))


def toml(content: bytes) -> None:
    """Read this file as settings of a training, and as a dataset."""
    path = _file("a.toml", content)
    with _errors_allowed():
        build_config(read_file(path))
    with _errors_allowed():
        read_dataset_toml(path, DataConfig())


def spec(content: bytes) -> None:
    """Read this text as numbers of blocks and as a schedule."""
    text = content.decode("utf-8", "replace")
    for kind in SPEC_KINDS:
        with _errors_allowed():
            numbers = parse_spec(text, scheme_of("sd1", {}), kind=kind)
            assert all(map(math.isfinite, numbers.values.values()))
            assert parse_spec(numbers.canonical(), numbers.scheme, kind=kind).values == numbers.values
    with _errors_allowed():
        assert math.isfinite(parse_schedule(text).at(0.5))


def prompt(content: bytes) -> None:
    """Read this prompt."""
    text = content.decode("utf-8", "replace")
    with _errors_allowed():
        for segment in parse_weights(text):
            assert all(math.isfinite(weight) for _, weight in segment)
    tags_in(text)
    syntax_note([text])


def pickle(content: bytes) -> None:
    """Read these bytes as the pickle of a zip archive, and as an older file of torch."""
    for whole in (zipped(content, {"0": NUMBERS}), content):
        with _errors_allowed():
            file = open_pickle(_file("a.pt", whole))
            for key in file.entries:
                file.read(key)


def embedding(content: bytes) -> None:
    """Read a file of embeddings, and check whether a base of one text encoder can take it."""
    with _errors_allowed():
        read = read_embedding(_file("embedding.safetensors", content))
        assert all(rows.ndim == 2 and np.isfinite(rows).all() for rows in read.vectors.values())
        check_words(cast(Any, _Base()), [read])


class _Base:
    """What the check of words needs of a base whose text encoder is 4 wide; loading one takes seconds."""

    def __init__(self) -> None:
        self.text_encoder = self.tokenizer = self

    def get_input_embeddings(self) -> torch.nn.Embedding:
        """Return embeddings of 3 tokens."""
        return torch.nn.Embedding(3, 4)

    def get_vocab(self) -> dict[str, int]:
        """Return the tokens."""
        return {"fox</w>": 0, "owl": 1, "a": 2}


def training_state(content: bytes) -> None:
    """Read this file, and this text as the header of a whole training state with a right checksum."""
    with _errors_allowed():
        load_state(_file("step-000001.state.safetensors", content))
    tensors = {"trainable/a": torch.ones(3), "optimizer/0/step": torch.tensor(1), "optimizer/0/exp_avg": torch.ones(3)}
    with contextlib.suppress(ValueError, RecursionError, BwlabError):
        header = json.loads(content)
        whole = {**header, CHECKSUM: checksum(tensors, json.dumps(header))} if isinstance(header, dict) else header
        state = load_state(_file("step-000001.state.safetensors", save(tensors, {HEADER: json.dumps(whole)})))
        check_settings(state, {"data.size": "64"})
        load_optimizer(state, torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))]))


def results(content: bytes) -> None:
    """Read this file as the results of a study, and this text as each of their entries."""
    text = content.decode("utf-8", "replace")
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.executescript(TABLES)
        database.executemany("insert into about values (?, ?)", [("plan", text), ("version", "2")])
        database.execute("insert into scores values ('a', 'b', 'c', 'text', 1, ?)", [text])
        database.execute("insert into measures values ('a', 'b', 'c', 'text', ?, 1, 1)", [text])
        database.execute("insert into recommended values ('a', 'b', 'c', '1', '1', 1, 'text', ?)", [text])
        database.execute("insert into blame values ('a', 'b', 'c', 'text', 'a', 'in1', ?, 1)", [text])
        database.execute("insert into jobs values ('score', 'a', 'a', ?)", [text])
        database.commit()
        whole = database.serialize()
    for each in (content, whole):
        with _errors_allowed():
            read_results(_file("results.sqlite", each))


def job_result(content: bytes) -> None:
    """Read this text as the result of a job of each kind, and as such with a right checksum."""
    texts = [content]
    with contextlib.suppress(ValueError, RecursionError):
        whole = json.loads(content)
        texts += [json.dumps({**whole, CHECKSUM: checksum_of(whole)}).encode()] if isinstance(whole, dict) else []
    for text in texts:
        _file(RESULT, text)
        for kind in ENTRIES:
            fault(kind, _folder())


ALL = (
    *(header, metadata, adapter_config, toml, spec, prompt, pickle),
    *(embedding, training_state, results, job_result),
)
READERS: Mapping[str, Callable[[bytes], None]] = {reader.__name__: reader for reader in ALL}


def corpus(name: str) -> list[Path]:
    """Return the saved files for a reader."""
    return sorted((CORPUS / name).iterdir())
