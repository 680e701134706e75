"""Dataset files of kohya's trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bwlab.dataset.config import DataConfig
from bwlab.dataset.examples import Subset
from bwlab.dataset.folders import read_dataset
from bwlab.dataset.kohya_toml import OPTIONS, UNSUPPORTED, is_dataset_toml, read_dataset_toml
from bwlab.errors import BwlabError
from bwlab.images import Size
from tests.dataset.small_data import WriteData

# After the example of kohya's own documentation, with all that bwlab knows.
WHOLE = """
[general]
shuffle_caption = true
caption_extension = '.txt'
keep_tokens = 1
flip_aug = true
cache_info = false

[[datasets]]
resolution = 512
batch_size = 4
keep_tokens = 2
enable_bucket = true
min_bucket_reso = 256
max_bucket_reso = 1024
bucket_reso_steps = 64
bucket_no_upscale = true

  [[datasets.subsets]]
  image_dir = 'hoge'
  class_tokens = 'hoge girl'
  num_repeats = 10
  caption_prefix = "best,"
  caption_suffix = ", side"

  [[datasets.subsets]]
  image_dir = 'fuga'
  keep_tokens = 3
  color_aug = false
  caption_dropout_rate = 0.1
  caption_tag_dropout_rate = 1
  caption_dropout_every_n_epochs = 4

  [[datasets.subsets]]
  is_reg = true
  image_dir = 'reg'
  class_tokens = 'human'

[[datasets]]
resolution = [768, 640]

  [[datasets.subsets]]
  image_dir = 'hoge'
  random_crop = true
  flip_aug = false
"""


def write_toml(folder: Path, text: str) -> Path:
    path = folder / "data.toml"
    path.write_text(text, encoding="utf-8")
    return path


def one_subset(folder: Path, *lines: str, general: str = "", dataset: str = "") -> Path:
    body = "\n".join(lines) or "image_dir = 'x'"
    return write_toml(folder, f"[general]\n{general}\n[[datasets]]\n{dataset}\n[[datasets.subsets]]\n{body}\n")


def test_the_innermost_table_wins(tmp_path: Path) -> None:
    hoge, fuga, reg, other = read_dataset_toml(write_toml(tmp_path, WHOLE), DataConfig(repeats=7, tag_dropout=0.5))
    assert [subset.settings.folder for subset in (hoge, fuga, reg, other)] == ["hoge", "fuga", "reg", "hoge"]
    assert [subset.settings.keep_tokens for subset in (hoge, fuga, reg, other)] == [2, 3, 2, 1]
    assert [subset.settings.repeats for subset in (hoge, fuga, reg, other)] == [10, 7, 7, 7]
    assert [subset.settings.caption for subset in (hoge, fuga, reg, other)] == ["hoge girl", None, "human", None]
    assert [subset.settings.flip for subset in (hoge, fuga, reg, other)] == [True, True, True, False]
    assert [subset.settings.upscale for subset in (hoge, fuga, reg, other)] == [False, False, False, True]
    assert [subset.settings.tag_dropout for subset in (hoge, fuga, reg, other)] == [0.5, 1.0, 0.5, 0.5]
    assert [subset.regularisation for subset in (hoge, fuga, reg, other)] == [False, False, True, False]
    assert [subset.shape for subset in (hoge, fuga, reg, other)] == [None, None, None, Size(768, 640)]
    assert [subset.dropout_epochs for subset in (hoge, fuga, reg, other)] == [0, 4, 0, 0]
    assert (hoge.settings.resolution, hoge.settings.bucket_min, hoge.settings.bucket_step) == (512, 256, 64)
    assert (hoge.prefix, hoge.suffix, other.settings.random_crop) == ("best,", ", side", True)
    assert not any(subset.recursive for subset in (hoge, fuga, reg, other))
    assert hoge.notes == (
        f"{tmp_path / 'data.toml'}: datasets[0]: batch_size has no effect; training.batch_size counts for all",
    )


def test_images_directly_in_the_folder_are_read_and_its_name_is_ignored(write_data: WriteData, tmp_path: Path) -> None:
    folder = write_data({"25_x/a.png": "ink", "25_x/b.png": None, "25_x/deep/c.png": "no"}) / "25_x"
    lines = f"image_dir = '{folder}'", "class_tokens = 'sks, fox'", "caption_prefix = 'one,'", "caption_suffix = ', z'"
    examples = read_dataset(DataConfig(dataset=str(one_subset(tmp_path, *lines))))
    found = [(example.path.name, example.caption, example.repeats, example.captioned) for example in examples]
    assert found == [("a.png", "one, ink, z", 1, True), ("b.png", "one, sks, fox, z", 1, False)]


def test_captions_of_other_images_are_needed(write_data: WriteData, tmp_path: Path) -> None:
    folder = write_data({"25_x/b.png": None}) / "25_x"
    with pytest.raises(BwlabError, match=r"caption of .*b\.png: b\.txt is missing"):
        read_dataset(DataConfig(dataset=str(one_subset(tmp_path, f"image_dir = '{folder}'"))))


def test_a_missing_folder_is_named_with_its_table(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match=r"data\.toml: datasets\[0\]\.subsets\[0\]: image_dir = x: no such folder"):
        read_dataset(DataConfig(dataset=str(one_subset(tmp_path))))


REFUSED = [
    ({"general": "num_repeat = 3"}, r"general: num_repeat: unknown option. Did you mean num_repeats\?"),
    ({"general": "image_dir = 'x'"}, r"image_dir: it is not allowed there. Put it into \[\[datasets\.subsets\]\]"),
    ({"dataset": "flip_aug = 'yes'"}, r"datasets\[0\]: flip_aug = 'yes': not true or false"),
    ({"dataset": "resolution = [512]"}, r"resolution = \[512\]: not a resolution. Give a whole number of 8 to 8192"),
    ({"dataset": "resolution = 4"}, "resolution = 4: not a resolution"),
    ({"dataset": "bucket_reso_steps = 0"}, "bucket_reso_steps = 0: out of range. Give a finite number and at least 8"),
    ({"general": "color_aug = true"}, "general: color_aug = True: bwlab lacks it. Take it out"),
    ({"general": "enable_wildcard = true"}, "enable_wildcard = True: bwlab lacks it. Write the captions out"),
]
REFUSED_LINES = [
    ("num_repeats = 0", r"num_repeats = 0: out of range"),
    ("caption_dropout_rate = nan", r"caption_dropout_rate = nan: out of range"),
    ("caption_dropout_rate = 1.5", r"caption_dropout_rate = 1.5: out of range.* at most 1"),
    ("resolution = 512", r"resolution: it is not allowed there. Put it into \[\[datasets\]\] or \[general\]"),
    ("is_reg = true", "every subset is marked is_reg"),
    ("is_rge = true", r"is_rge: unknown option. Did you mean is_reg\?"),
    ("metadata_file = 'a.json'", "metadata_file = 'a.json': bwlab lacks it. Write captions beside the images"),
]


@pytest.mark.parametrize(("where", "message"), REFUSED)
def test_a_mistake_is_named_with_its_table(tmp_path: Path, where: dict[str, str], message: str) -> None:
    with pytest.raises(BwlabError, match=message):
        read_dataset_toml(one_subset(tmp_path, **where), DataConfig())


@pytest.mark.parametrize(("line", "message"), REFUSED_LINES)
def test_a_mistake_in_a_subset_is_named_with_its_table(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(BwlabError, match=message):
        read_dataset_toml(one_subset(tmp_path, "image_dir = 'x'", line), DataConfig())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"it has no \[\[datasets\]\]"),
        ("datasets = 3", r"it has no \[\[datasets\]\]"),
        ("[[datasets]]", r"datasets\[0\]: it has no \[\[datasets\.subsets\]\]"),
        ("[[datasets]]\nsubsets = [3]", r"subsets\[0\]: 3 is not a table"),
        ("general = 3\n", "general: 3 is not a table"),
        ("[[dataset]]", r"dataset: unknown option. Did you mean datasets\?"),
        ("[[datasets]]\n[[datasets.subsets]]\nnum_repeats = 2", r"subsets\[0\]: image_dir: it is missing"),
        (
            "[[datasets]]\n[[datasets.subsets]]\nimage_dir = 'x'\n[[datasets.subsets]]\nimage_dir = './x'",
            r"subsets\[1\]: image_dir = .*x: this dataset has it already. Raise its num_repeats",
        ),
        ("a = ", r"data\.toml: Invalid value"),
    ],
)
def test_a_file_of_another_form_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(BwlabError, match=message):
        read_dataset_toml(write_toml(tmp_path, text), DataConfig())


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match=r"data\.dataset = .*no\.toml: no such file"):
        read_dataset_toml(tmp_path / "no.toml", DataConfig())


def test_dataset_files_are_distinguished_from_settings(tmp_path: Path) -> None:
    assert is_dataset_toml(write_toml(tmp_path, WHOLE))
    assert not is_dataset_toml(write_toml(tmp_path, "[data]\nfolder = 'x'\n"))


@pytest.mark.parametrize("name", sorted(UNSUPPORTED))
def test_what_is_switched_off_may_stand_there(tmp_path: Path, name: str) -> None:
    for value in UNSUPPORTED[name].values:
        if value == {}:
            continue
        shown = json.dumps(value)
        assert len(read_dataset_toml(one_subset(tmp_path, general=f"{name} = {shown}"), DataConfig())) == 1


values = st.one_of(
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6),
    st.lists(st.integers(0, 9000), max_size=3),
    st.sampled_from([512, 64, 0.5, ".txt", [512, 768], True, "x"]),
)
tables = st.dictionaries(st.sampled_from(sorted(OPTIONS)) | st.text("abc_", min_size=1), values, max_size=4)


def inline(value: object) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)


def written(header: str, table: dict[str, object]) -> str:
    return f"{header}\n" + "".join(f"{json.dumps(key)} = {inline(value)}\n" for key, value in table.items())


@given(general=tables, dataset=tables, subset=tables)
@example(general={"resolution": [512, 768]}, dataset={"enable_bucket": True}, subset={"image_dir": "x"})
def test_any_options_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    general: dict[str, object],
    dataset: dict[str, object],
    subset: dict[str, object],
) -> None:
    subset = {"image_dir": "x", **subset}
    text = written("[general]", general) + written("[[datasets]]", dataset) + written("[[datasets.subsets]]", subset)
    path = write_toml(tmp_path_factory.mktemp("fuzz"), text)
    error = None
    found: tuple[Subset, ...] = ()
    try:
        found = read_dataset_toml(path, DataConfig())
    except BwlabError as refused:
        error = refused
    if error is not None:
        assert error.asked.startswith((str(path), "data.dataset"))
        assert "\n" not in str(error)
        return
    (one,) = found
    for key, value in subset.items():
        if key in ("num_repeats", "keep_tokens", "flip_aug"):
            assert value in (one.settings.repeats, one.settings.keep_tokens, one.settings.flip)


@given(content=st.binary(max_size=80) | st.text("[]=datsubegnrl.\n\"'{}1 ", max_size=80).map(str.encode))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "data.toml"
    path.write_bytes(content)
    with pytest.raises(BwlabError):
        read_dataset_toml(path, DataConfig())
