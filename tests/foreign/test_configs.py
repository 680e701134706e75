"""Configs of OneTrainer and ai-toolkit: what they mean where the meanings differ."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from bwlab.cli.app import main
from bwlab.dataset.config import DataConfig
from bwlab.dataset.folders import read_dataset
from bwlab.dataset.kohya_toml import read_dataset_toml
from bwlab.errors import BwlabError
from bwlab.foreign.read import translate
from bwlab.foreign.translator import Translation
from bwlab.training.settings import build_config, collect


def checked(translation: Translation) -> dict[str, object]:
    """Return the settings of a translation, all of which bwlab takes."""
    build_config(collect(None, None, {}, (), translation.settings))
    return {setting.key: setting.value for setting in translation.settings}


def onetrainer(folder: Path, **config: object) -> Translation:
    path = folder / "config.json"
    path.write_text(json.dumps({"training_method": "LORA", **config}))
    return translate(str(path))


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {},
            {"adapter.blocks": "all=16, te=16", "adapter.alpha": 1.0, "adapter.type": "locon", "training.epochs": 100},
        ),
        ({"lora_rank": 4, "text_encoder": {"train": False}}, {"adapter.blocks": "all=4"}),
        (
            {"model_type": "STABLE_DIFFUSION_XL_10_BASE", "text_encoder_2": {"train": False}},
            {"adapter.blocks": "all=16, te1=16"},
        ),
        (
            {"model_type": "FLUX_DEV_1", "layer_filter_preset": "attn-mlp", "text_encoder": {"train": False}},
            {"adapter.blocks": "all=16, te2=16", "adapter.type": "lora", "training.timestep_shift": 1.0},
        ),
        ({"learning_rate": 1e-4, "text_encoder": {"learning_rate": 5e-5}}, {"training.block_lr": "te=5e-05"}),
        ({"learning_rate_warmup_steps": 0.1}, {"training.warmup_share": 0.1, "training.warmup": None}),
        ({"gradient_accumulation_steps": 4}, {"training.warmup": 50, "training.accumulation": 4}),
        ({"output_model_destination": "models\\fox.safetensors"}, {"out": "models/fox", "output.name": "fox"}),
        ({"ema": "GPU", "ema_decay": 0.99, "ema_update_step_interval": 1}, {"training.ema": 0.99}),
        ({"ema": "GPU"}, {"training.ema": 0.99979992}),  # every five steps: 0.99979992 ** 5 = 0.999
        ({"clip_grad_norm": None}, {"training.max_grad_norm": 1.0}),
        (
            {"model_type": "FLUX_DEV_1", "transformer": {"weight_dtype": "NFLOAT_4"}, "base_model_name": "owner/flux"},
            {"training.quantize": "nf4"},
        ),
        (
            {"unet": {"weight_dtype": "FLOAT_8"}, "transformer": {"weight_dtype": "NFLOAT_4"}},
            {"training.quantize": "int8"},
        ),
        ({"unet": {"weight_dtype": "FLOAT_16"}}, {"training.quantize": None}),
        (
            {"training_method": "EMBEDDING", "embedding": {"placeholder": "<fox>", "token_count": 3}},
            {"tokens.words": ["<fox>"], "tokens.vectors": 3, "tokens.alone": True},
        ),
        (
            {
                "concepts": [{"path": "fox", "balancing": 2.0, "image": {"enable_random_flip": True}}],
                "resolution": "640",
            },
            {"data.folder": "fox", "data.repeats": 2, "data.flip": True, "data.resolution": 640, "data.buckets": True},
        ),
    ],
)
def test_the_meaning_of_a_config_of_onetrainer(
    tmp_path: Path, config: Mapping[str, object], expected: Mapping[str, object]
) -> None:
    found = checked(onetrainer(tmp_path, **config))
    assert {key: found.get(key) for key in expected} == expected


def test_mistakes_in_configs_of_onetrainer(tmp_path: Path) -> None:
    with pytest.raises(BwlabError, match="bwlab trains adapters and new words"):
        onetrainer(tmp_path, training_method="FINE_TUNE")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(BwlabError, match="it is no config of OneTrainer"):
        translate(str(tmp_path / "other.json"))
    (tmp_path / "other.json").write_text("[")
    with pytest.raises(BwlabError, match="it is no JSON"):
        translate(str(tmp_path / "other.json"))
    translation = onetrainer(tmp_path, lora_rnk=3, masked_training=True)
    assert any(
        "lora_rnk (did you mean lora_rank?) is a key that bwlab does not know" in note for note in translation.notes
    )
    assert any("masked_training is not translated" in warning for warning in translation.warnings)


AI_CONFIG = """
job: extension
config:
  name: "fox"
  process:
    - type: 'sd_trainer'
      training_folder: "output"
      trigger_word: "f0x"
      network: {{type: "lora", linear: 16, linear_alpha: 16}}
      save: {{dtype: float16, save_every: 250}}
      datasets:
        - folder_path: "images"
          caption_ext: "txt"
          caption_dropout_rate: 0.05
          resolution: {resolution}
{more}
      train: {{batch_size: 1, steps: 2000, optimizer: "adamw8bit", lr: 1e-4, dtype: bf16}}
      model: {{name_or_path: "owner/FLUX.1-dev", is_flux: true}}
      sample: {{sample_every: 100, prompts: ["[trigger] in a forest"]}}
"""


def ai_toolkit(folder: Path, resolution: str = "512", more: str = "") -> Path:
    path = folder / "fox.yaml"
    path.write_text(AI_CONFIG.format(resolution=resolution, more=more))
    return path


def test_the_meaning_of_a_config_of_ai_toolkit(tmp_path: Path) -> None:
    translation = translate(str(ai_toolkit(tmp_path)))
    expected = {
        "base": "owner/FLUX.1-dev",
        "out": "output/fox",
        "output.name": "fox",
        "output.dtype": "fp16",
        "adapter.type": "lora",
        "adapter.blocks": "all=16, modulation=16",
        "training.lr": 1e-4,
        "training.steps": 2000,
        "training.optimizer": "adamw8bit",
        "training.timestep_sampling": "logit_normal",
        "training.timestep_shift": 1.0,
        "training.precision": "bf16",
        "data.folder": "images",
        "data.resolution": 512,
        "data.buckets": True,
        "data.caption_extension": ".txt",
        "data.caption_dropout": 0.05,
        "preview.prompts": ["f0x in a forest"],
    }
    found = checked(translation)
    assert {key: found.get(key) for key in expected} == expected
    assert "adapter.alpha" not in found
    assert any("trigger_word: f0x is not translated" in warning for warning in translation.warnings)


@pytest.mark.parametrize(
    ("model", "quantised"),
    [
        ("quantize: true", "int8"),
        ("quantize: true, qtype: qfloat8", "int8"),
        ('quantize: true, qtype: "uint4|ostris/accuracy"', "nf4"),
        ("quantize: false, qtype: uint4", None),
        ("qtype: uint4", None),
    ],
)
def test_a_quantised_base_of_ai_toolkit(tmp_path: Path, model: str, quantised: str | None) -> None:
    path = ai_toolkit(tmp_path)
    path.write_text(path.read_text().replace("is_flux: true", f"is_flux: true, {model}"))
    assert checked(translate(str(path))).get("training.quantize") == quantised


def test_a_single_file_is_not_quantised(tmp_path: Path) -> None:
    path = ai_toolkit(tmp_path)
    path.write_text(
        path.read_text().replace("owner/FLUX.1-dev", "flux.safetensors").replace("true}", "true, quantize: true}")
    )
    translation = translate(str(path))
    assert "training.quantize" not in checked(translation)
    assert any("quantize is not translated: a single file is not quantised" in line for line in translation.warnings)


def test_several_sizes_are_a_dataset_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    config = ai_toolkit(tmp_path, "[512, 768]", "        - {folder_path: 'class', is_reg: true, flip_x: true}")
    assert exit_code("train", "--from", str(config)) == 2
    assert "'bwlab config init FILE.toml --from ...' writes it beside the settings" in capsys.readouterr().err
    run = tmp_path / "run.toml"
    assert exit_code("config", "init", str(run), "--from", str(config)) == 0
    data = tmp_path / "run-dataset.toml"
    assert capsys.readouterr().out == f"{data}\n{run}\n"
    assert tomllib.loads(run.read_text())["data"]["dataset"] == str(data)
    subsets = read_dataset_toml(data, DataConfig())
    assert [(one.settings.folder, one.settings.resolution, one.regularisation) for one in subsets] == [
        ("images", 512, False),
        ("class", 512, True),
        ("images", 768, False),
    ]
    assert subsets[1].settings.flip
    assert subsets[0].settings.caption_dropout == 0.05
    assert subsets[0].settings.buckets


def images(folder: Path) -> Path:
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    (folder / "a.txt").write_text("a fox")
    return folder


def trained(translation: Translation, folder: Path) -> dict[str, int]:
    """Return the folders whose images are trained, with their repeats."""
    settings = {setting.key: setting.value for setting in translation.settings}
    config = DataConfig(folder=str(settings.get("data.folder", "")))
    if translation.dataset is not None:
        data = folder / "dataset.toml"
        data.write_text(translation.dataset)
        config = DataConfig(dataset=str(data))
    return {example.path.parent.name: example.repeats for example in read_dataset(config)}


def test_names_of_folders_mean_nothing_to_other_trainers(tmp_path: Path) -> None:
    named = images(tmp_path / "10_fox")
    assert trained(onetrainer(tmp_path, concepts=[{"path": str(named)}]), tmp_path) == {"10_fox": 1}
    config = ai_toolkit(tmp_path)
    config.write_text(config.read_text().replace('"images"', json.dumps(str(tmp_path / "all"))))
    images(tmp_path / "all" / "10_fox")
    images(tmp_path / "all" / "owl")
    assert trained(translate(str(config)), tmp_path) == {"10_fox": 1, "owl": 1}, "it reads subfolders"


def test_onetrainer_reads_subfolders_only_if_it_is_told(tmp_path: Path) -> None:
    images(tmp_path / "all" / "inner")
    images(tmp_path / "all" / "inner" / "10_deep")
    Image.new("RGB", (8, 8)).save(tmp_path / "all" / "b.png")
    (tmp_path / "all" / "b.txt").write_text("a fox")
    concept = {"path": str(tmp_path / "all")}
    assert trained(onetrainer(tmp_path, concepts=[concept]), tmp_path) == {"all": 1}
    whole = onetrainer(tmp_path, concepts=[{**concept, "include_subdirectories": True}])
    assert trained(whole, tmp_path) == {"all": 1, "inner": 1, "10_deep": 1}


def test_class_images_with_settings_of_their_own_are_a_dataset_file(tmp_path: Path) -> None:
    same = ai_toolkit(tmp_path, more="        - {folder_path: class, is_reg: true, caption_dropout_rate: 0.05}")
    assert checked(translate(str(same)))["regularisation.folder"] == "class"
    other = ai_toolkit(tmp_path, more="        - {folder_path: class, is_reg: true, num_repeats: 3}")
    translation = translate(str(other))
    assert translation.dataset is not None
    (tmp_path / "data.toml").write_text(translation.dataset)
    subsets = read_dataset_toml(tmp_path / "data.toml", DataConfig())
    assert [(one.settings.folder, one.settings.repeats, one.regularisation) for one in subsets] == [
        ("images", 1, False),
        ("class", 3, True),
    ]


def exit_code(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0)


MANY_ALIASES = "a: &a [1,1,1,1,1,1,1,1,1,1]\n" + "\n".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in ("ab", "bc", "cd", "de", "ef", "fg")
)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("job: generate\n", "it is no config of ai-toolkit"),
        ("config: {process: [{type: slider}]}", "its process is of the type slider"),
        ("config: {process: [{type: sd_trainer}, {type: sd_trainer}]}", "it has 2 processes"),
        ("config: {process: [{type: sd_trainer}]}", "it has no network"),
        ("a: [", "it is no YAML that can be read"),
        (MANY_ALIASES, "it stands for too many values"),
        ("config: {process: [{type: sd_trainer, network: {linear: x}}]}", "not a whole number"),
    ],
)
def test_mistakes_in_configs_of_ai_toolkit(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(BwlabError, match=found):
        translate(str(tmp_path / "x.yaml"))


def test_other_toml_files_are_told_where_they_belong(tmp_path: Path) -> None:
    (tmp_path / "set.toml").write_text("[[datasets]]\n")
    with pytest.raises(BwlabError, match="it is a dataset file"):
        translate(str(tmp_path / "set.toml"))
    (tmp_path / "run.toml").write_text("[adapter]\nblocks = 'mid=2'\n")
    with pytest.raises(BwlabError, match="it holds settings of bwlab"):
        translate(str(tmp_path / "run.toml"))


def test_a_config_without_its_method_is_told_what_the_default_is(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"model_type": "FLUX_DEV_1"}')
    with pytest.raises(BwlabError, match="OneTrainer's default of training_method: bwlab trains adapters"):
        translate(str(tmp_path / "a.json"))
