"""Settings from presets, files, flags and --set."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from bwlab.config.toml import toml_text
from bwlab.dataset.config import DataConfig
from bwlab.errors import BwlabError
from bwlab.training.config import AdapterConfig, CheckpointConfig, OptimizerConfig, PreviewConfig, TrainConfig
from bwlab.training.settings import read_config


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_no_source_gives_the_defaults() -> None:
    assert read_config() == TrainConfig()


def test_later_sources_win(tmp_path: Path) -> None:
    path = write(tmp_path / "run.toml", "[training]\nbatch_size = 3\nlr = 1e-3\nseed = 5\n")
    config = read_config(
        path, "paper", {"training.lr": ("--lr", 2e-3), "training.seed": ("--seed", 6)}, ["training.seed=7"]
    )
    assert config.training.steps == 11_000  # preset
    assert config.training.batch_size == 3  # file over preset
    assert config.training.lr == 2e-3  # flag over file
    assert config.training.seed == 7  # --set over flag


def test_the_paper_preset_has_the_papers_numbers() -> None:
    config = read_config(preset_name="paper")
    assert (config.adapter.type, config.data.repeats, config.preview.cfg) == ("locon", 25, 7.0)
    assert (config.training.steps, config.training.batch_size, config.preview.steps) == (11_000, 2, 25)
    assert config.regularisation.generate == 500


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[training]\nlearningrate = 1", "training.learningrate"),
        ("[training]\nstep = 1", "training.step"),
        ("[adaptor]\nblocks = 'all=4'", "adaptor.blocks"),
        ("bose = 'emoji'", "bose"),
        ("training = 3", "training"),
        ("base = {path = 'x'}", "base.path"),
    ],
)
def test_an_unknown_key_names_file_and_key(tmp_path: Path, text: str, key: str) -> None:
    path = write(tmp_path / "run.toml", text)
    with pytest.raises(BwlabError, match="unknown key") as caught:
        read_config(path)
    assert caught.value.asked == f"{path}: {key}"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [("training.step", "training.steps"), ("lr", "training.lr"), ("data.foldr", "data.folder"), ("bse", "base")],
)
def test_an_unknown_key_names_the_nearest_known_one(key: str, nearest: str) -> None:
    with pytest.raises(BwlabError, match=rf"Did you mean {nearest}\?"):
        read_config(sets=[f"{key}=1"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("training.lr", "nan"),
        ("training.lr", "NaN"),
        ("training.lr", "-1e-4"),
        ("training.lr", "0"),
        ("training.lr", "inf"),
        ("training.lr", "fast"),
        ("training.lr", "true"),
        ("training.steps", "0"),
        ("training.steps", "1.5"),
        ("training.steps", "many"),
        ("training.batch_size", "-2"),
        ("training.seed", "-1"),
        ("training.weight_decay", "nan"),
        ("training.max_grad_norm", "-1"),
        ("training.precision", "fp8"),
        ("adapter.alpha", "nan"),
        ("adapter.alpha", "0"),
        ("data.repeats", "0"),
        ("data.resolution", "0"),
        ("data.skip_broken", "maybe"),
        ("preview.cfg", "inf"),
        ("preview.every", "-1"),
        ("preview.prompts", "[1]"),
        ("checkpoint.keep", "0"),
    ],
)
def test_a_bad_value_names_key_and_origin(key: str, value: str) -> None:
    with pytest.raises(BwlabError) as caught:
        read_config(sets=[f"{key}={value}"])
    assert caught.value.asked == f"--set: {key} = {value}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training.steps = 0", "training.steps = 0: out of range. Give a finite number and at least 1"),
        (
            "data.resolution = 9000",
            "data.resolution = 9000: out of range. Give a finite number and at least 8 and at most 8192",
        ),
        ("training.lr = nan", "training.lr = nan: out of range. Give a finite number and above 0"),
        ("training.steps = 1.5", "training.steps = 1.5: not a whole number. Give a whole number"),
        ("training.steps = true", "training.steps = True: not a whole number. Give a whole number"),
        ("training.lr = '1e-4'", "training.lr = '1e-4': not a number. Give a number"),
        ("preview.prompts = [1]", "preview.prompts = [1]: not a list of texts. Give a list of texts"),
        (
            "training.schedule = 'cosin'",
            "training.schedule = cosin: unknown. Did you mean cosine? "
            "Choose from constant, linear, cosine, cosine_restarts, polynomial",
        ),
        (
            "adapter.options.a = 1979-05-27",
            "adapter.options.a = datetime.date(1979, 5, 27): not a text, a number, true, false or a list of these. "
            "Give a text, a number, true, false or a list of these",
        ),
    ],
)
def test_a_bad_value_in_a_file_names_file_key_value_and_what_to_give(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "run.toml", text)
    with pytest.raises(BwlabError) as caught:
        read_config(path)
    assert str(caught.value) == f"{path}: {message}"


def test_the_value_of_a_flag_is_checked() -> None:
    with pytest.raises(BwlabError, match=r"--alpha: adapter\.alpha = -1\.0: out of range"):
        read_config(flags={"adapter.alpha": ("--alpha", -1.0)})


def test_a_number_where_a_text_is_wanted_is_that_text() -> None:
    assert read_config(sets=["adapter.blocks=4"]).adapter.blocks == "4"


def test_a_value_may_hold_equals_signs_and_quotes() -> None:
    config = read_config(sets=["adapter.blocks=upper=16, mid=4", 'data.caption="a, b"', 'preview.prompts=["x", "y"]'])
    assert config.adapter.blocks == "upper=16, mid=4"
    assert config.data.caption == "a, b"
    assert config.preview.prompts == ("x", "y")


def test_one_prompt_needs_no_list() -> None:
    assert read_config(sets=["preview.prompts=a fox"]).preview.prompts == ("a fox",)


def test_options_of_an_adapter_type_are_free() -> None:
    config = read_config(sets=["adapter.options.dropout=0.1", "adapter.options.mode=fast"])
    assert config.adapter.options == {"dropout": 0.1, "mode": "fast"}


@pytest.mark.parametrize("text", ["training.lr", "=3", ""])
def test_a_set_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(BwlabError, match="not of the form key=value"):
        read_config(sets=[text])


def test_an_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(BwlabError, match="Choose from: paper"):
        read_config(preset_name="papper")


@pytest.mark.parametrize("content", [b"a = = b", b"a = '\xff'"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(content)
    with pytest.raises(BwlabError, match=r"config .*run\.toml"):
        read_config(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="no such file"):
        read_config(tmp_path / "run.toml")


def test_programs_get_the_same_checks() -> None:
    with pytest.raises(BwlabError, match="out of range"):
        OptimizerConfig(lr=float("nan"))
    with pytest.raises(BwlabError, match=r"step = 3: unknown key\. Did you mean steps\?"):
        OptimizerConfig(step=3)  # type: ignore[call-arg]
    with pytest.raises(BwlabError, match="out of range"):
        OptimizerConfig().replace(steps=0)
    assert OptimizerConfig().replace(steps=3) == OptimizerConfig(steps=3)


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        OptimizerConfig().steps = 3


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
positive = st.floats(min_value=1e-12, max_value=1e12)
configs = st.builds(
    TrainConfig,
    base=words,
    out=words,
    adapter=st.builds(
        AdapterConfig,
        blocks=words,
        alpha=st.none() | positive,
        options=st.dictionaries(
            words.filter(lambda word: bool(word) and "." not in word), st.integers() | words | st.booleans(), max_size=3
        ),
    ),
    data=st.builds(DataConfig, folder=words, caption=st.none() | words, skip_broken=st.booleans()),
    training=st.builds(OptimizerConfig, steps=st.integers(1, 10**9), lr=positive),
    preview=st.builds(PreviewConfig, prompts=st.lists(words, max_size=3).map(tuple), negative=words),
    checkpoint=st.just(CheckpointConfig()),
)


@given(config=configs)
def test_a_configuration_written_as_toml_reads_back_the_same(
    tmp_path_factory: pytest.TempPathFactory, config: TrainConfig
) -> None:
    text = toml_text(config)
    tomllib.loads(text)
    path = tmp_path_factory.getbasetemp() / "config.toml"  # one for all: `mktemp` lists its folder for each new one
    path.write_text(text, encoding="utf-8", newline="")
    assert read_config(path) == config
