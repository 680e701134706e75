"""Anything that is typed gives settings, or an error of one line that says what to do."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bwlab.base.names import base_unet
from bwlab.blocks.families import scheme_for
from bwlab.blocks.scheme import BlockScheme
from bwlab.blocks.spec import Kind, parse_spec
from bwlab.config.sources import setting_fields
from bwlab.config.toml import toml_text
from bwlab.errors import BwlabError
from bwlab.training.config import TrainConfig
from bwlab.training.settings import read_config

words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
numbers = st.integers() | st.floats()
texts = words | numbers.map(str) | st.sampled_from(["true", "[1]", '["a", "b"]', "{a = 1}", "1e999", "-0.0", "nan"])
values = st.recursive(
    words | numbers | st.booleans(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=3,
)
keys = st.sampled_from(sorted(setting_fields(TrainConfig))) | words


def assert_whole_or_refused(read: Callable[[], TrainConfig]) -> None:
    """Read a configuration; it must be whole, or refused with what to do instead."""
    error = None
    try:
        config = read()
    except BwlabError as refused:
        error = refused
    else:
        assert set(tomllib.loads(toml_text(config))) == set(TrainConfig.model_fields)
    assert error is None or (error.asked and error.found and error.fix)


@given(key=keys, text=texts)
@example(key="training.lr", text="NaN")
@example(key="adapter.alpha", text="nan")
@example(key="training.steps", text="1_000")
@example(key="training.seed", text=str(2**63))
@example(key="adapter.options.a", text="[{b = 1}]")
@example(key="adapter.options.a", text="1979-05-27")
@example(key="training.optimizer_options.betas", text="[0.9, 0.99]")
def test_any_set_is_read_or_refused(key: str, text: str) -> None:
    assert_whole_or_refused(lambda: read_config(sets=[f"{key}={text}"]))


@given(tables=st.dictionaries(keys, values, max_size=3))
def test_any_table_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, tables: dict[str, object]) -> None:
    """JSON's dictionaries are inline tables once their colons are written as TOML does."""
    lines = [f"{json.dumps(key)} = {toml_inline(value)}" for key, value in tables.items() if "\x7f" not in key]
    path = tmp_path_factory.mktemp("fuzz") / "run.toml"
    path.write_text("\n".join(lines), encoding="utf-8", newline="")
    assert_whole_or_refused(lambda: read_config(path))


def toml_inline(value: object) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml_inline(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_inline, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value)


@given(content=st.binary(max_size=60))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path: Path = tmp_path_factory.mktemp("fuzz") / "run.toml"
    path.write_bytes(content)
    assert_whole_or_refused(lambda: read_config(path))


@pytest.fixture(scope="module")
def scheme() -> BlockScheme:
    return scheme_for(base_unet("sd14").config)


names = st.sampled_from(
    ["upper", "mid", "in0", "in1.1", "IN05", "te", "base", "*", "all", "rest", "uper", "", "down.0"]
)
entries = st.tuples(
    names, st.sampled_from(["=", " = ", "", "=="]), texts | st.sampled_from(["16", "9999", "1e-4", "-1"])
)


@given(
    text=st.lists(entries.map("".join), max_size=4).map(",".join) | texts,
    kind=st.sampled_from(["rank", "scale", "rate"]),
)
@example(text="upper=9999", kind="rank")
@example(text="upper=0, mid=0", kind="rank")
@example(text="uper=16", kind="rank")
def test_any_spec_gives_numbers_or_is_refused(scheme: BlockScheme, text: str, kind: Kind) -> None:
    try:
        spec = parse_spec(text, scheme, kind=kind)
    except BwlabError:
        return
    assert set(spec.values) == {module.path for module in scheme.modules}
    assert all(value == value and abs(value) != float("inf") for value in spec.values.values())
    assert parse_spec(spec.canonical(), scheme, kind=kind).values == spec.values
    if kind == "rank":
        assert any(spec.values.values())
        assert all(value.is_integer() and 0 <= value <= 4096 for value in spec.values.values())
