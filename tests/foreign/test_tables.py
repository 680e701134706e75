"""Every option that other trainers have stands in the tables, and every option that is translated acts.

The lists of names were read from sd-scripts 48d368f, OneTrainer 23df383 and ai-toolkit 27a03a9.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from bwlab.config.foreign.ai_toolkit import AI_TOOLKIT
from bwlab.config.foreign.kohya import KOHYA, LAUNCH, NETWORK_ARGS
from bwlab.config.foreign.onetrainer import ONETRAINER
from bwlab.config.foreign.rows import Place, Row, Takes
from bwlab.errors import BwlabError
from bwlab.foreign.ai_toolkit import from_yaml
from bwlab.foreign.command_line import parse_command
from bwlab.foreign.kohya import from_command
from bwlab.foreign.onetrainer import from_json
from bwlab.foreign.translator import Translation

HERE = Path(__file__).parent
LISTS = {"kohya_flags": KOHYA, "onetrainer_keys": ONETRAINER, "ai_toolkit_keys": AI_TOOLKIT}


@pytest.mark.parametrize(("file", "rows"), LISTS.items(), ids=LISTS)
def test_no_option_is_missing(file: str, rows: Sequence[Row]) -> None:
    names = (HERE / f"{file}.txt").read_text(encoding="utf-8").split()
    known = [row.name for row in rows]
    assert len(names) > 200
    assert sorted(set(names) - set(known)) == []
    assert len(known) == len(set(known))


@pytest.mark.parametrize("rows", LISTS.values(), ids=LISTS)
def test_every_row_says_what_to_do(rows: Sequence[Row]) -> None:
    for row in rows:
        assert row.says, row
        assert row.fix or row.place is not Place.LACKING, row


def only_values(translation: Translation) -> tuple[object, ...]:
    """Return what a translation gives, without where it comes from."""
    settings = {setting.key: setting.value for setting in translation.settings}
    return settings, len(translation.warnings), translation.dataset


# Options of kohya's trainer that need more than themselves to act: the value, and the options of both commands.
PROMPTS = "prompts.txt"
LYCORIS = "--network_module lycoris.kohya --network_args"
FLUX = "flux_train_network.py"
KOHYA_CASES: Mapping[str, tuple[str, str]] = {
    "network_module": ("lycoris.kohya", ""),
    "network_train_unet_only": ("", ""),
    "network_args": ("conv_dim=8", ""),
    "resolution": ("640,640", ""),
    "min_bucket_reso": ("128", "--enable_bucket"),
    "max_bucket_reso": ("2048", "--enable_bucket"),
    "bucket_reso_steps": ("32", "--enable_bucket"),
    "bucket_no_upscale": ("", "--enable_bucket"),
    "max_token_length": ("150", ""),
    "optimizer_type": ("Prodigy", ""),
    "optimizer_args": ("weight_decay=0.3", ""),
    "lr_scheduler": ("linear", ""),
    "lr_scheduler_num_cycles": ("4", "--lr_scheduler cosine_with_restarts"),
    "timestep_sampling": ("shift", FLUX),
    "discrete_flow_shift": ("2", FLUX),
    "training_shift": ("2", "sd3_train_network.py"),
    "weighting_scheme": ("logit_normal", FLUX),
    "mixed_precision": ("bf16", ""),
    "output_name": ("fox", "--output_dir out"),
    "save_precision": ("fp16", ""),
    "save_n_epoch_ratio": ("5", "--max_train_epochs 10"),
    "save_last_n_epochs": ("5", "--save_every_n_epochs 1"),
    "save_last_n_steps": ("500", "--save_every_n_steps 100"),
    "sample_prompts": (PROMPTS, "--sample_every_n_steps 10"),
    "sample_every_n_steps": ("10", f"--sample_prompts {PROMPTS}"),
    "sample_every_n_epochs": ("1", f"--sample_prompts {PROMPTS}"),
    "log_with": ("wandb", ""),
    "config_file": ("other.toml", ""),
    "conv_alpha": ("conv_alpha=8", "--network_dim 8 --network_alpha 8 --network_args conv_dim=8"),
    "conv_dim": ("conv_dim=3", "--network_args"),
    "block_dims": (f"block_dims={','.join(['2'] * 25)}", "--network_args"),
    "block_alphas": (f"block_alphas={','.join(['2'] * 25)}", "--network_args"),
    "down_lr_weight": (f"down_lr_weight={','.join(['0.5'] * 12)}", "--network_args"),
    "mid_lr_weight": ("mid_lr_weight=0.5", "--network_args"),
    "up_lr_weight": (f"up_lr_weight={','.join(['0'] * 12)}", "--network_args"),
    "block_lr_zero_threshold": ("block_lr_zero_threshold=0.7", "--network_args mid_lr_weight=0.5"),
    "algo": ("algo=loha", LYCORIS),
    "dora_wd": ("dora_wd=True", LYCORIS),
    "preset": ("preset=attn-mlp", LYCORIS),
    "factor": ("factor=4", f"{LYCORIS} algo=lokr"),
    "decompose_both": ("decompose_both=True", f"{LYCORIS} algo=lokr"),
    "full_matrix": ("full_matrix=True", f"{LYCORIS} algo=lokr"),
    "unbalanced_factorization": ("unbalanced_factorization=True", f"{LYCORIS} algo=lokr"),
    "use_tucker": ("use_tucker=True", f"{LYCORIS} algo=loha"),
    "constraint": ("constraint=0.5", f"{LYCORIS} algo=diag-oft"),
    "rescaled": ("rescaled=True", f"{LYCORIS} algo=boft"),
    "wd_on_output": ("wd_on_output=False", f"{LYCORIS} dora_wd=True"),
    "train_on_input": ("train_on_input=True", f"{LYCORIS} algo=ia3"),
    "train_blocks": ("train_blocks=single", f"{FLUX} --network_args"),
    "train_double_block_indices": ("train_double_block_indices=0-3", f"{FLUX} --network_args"),
    "train_single_block_indices": ("train_single_block_indices=0-3,8", f"{FLUX} --network_args"),
    "train_block_indices": ("train_block_indices=0-3", "sd3_train_network.py --network_args"),
    "train_t5xxl": ("train_t5xxl=True", f"{FLUX} --network_args"),
}
EXAMPLES = {Takes.SWITCH: "", Takes.WHOLE: "3", Takes.NUMBER: "0.5", Takes.TEXT: "something", Takes.TEXTS: "0.5"}
TRANSLATED = [row for row in KOHYA if row.place is Place.HERE]


@pytest.mark.parametrize("row", TRANSLATED, ids=lambda row: row.name)
def test_a_translated_option_of_kohya_acts(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(PROMPTS).write_text("a fox --n blurry --s 12 --l 4 --d 3\n")
    Path("other.toml").write_text("[any]\nlearning_rate = 0.5\n")
    name = row.name.removeprefix(NETWORK_ARGS)
    value, common = KOHYA_CASES.get(name, (EXAMPLES.get(row.takes, ""), ""))
    of_network = row.name.startswith(NETWORK_ARGS)
    given = value if of_network else f"--{name} {value}"
    without, with_option = (command.strip() or "--seed 1" for command in (common, f"{common} {given}"))
    first, second = (only_values(from_command(parse_command(command))) for command in (without, with_option))
    assert first != second


def test_what_has_no_counterpart_is_named_with_the_reason() -> None:
    for row in KOHYA:
        if (
            row.place is Place.HERE
            or row.name.startswith((NETWORK_ARGS, LAUNCH))
            or row.name in ("in_json", "dataset_class")
        ):
            continue
        value = {Takes.WHOLE: "7", Takes.NUMBER: "0.7", Takes.TEXT: "other", Takes.TEXTS: "other"}.get(row.takes, "")
        translation = from_command(parse_command(f"--seed 1 --{row.name} {value}"))
        lines = translation.warnings if row.place is Place.LACKING else translation.notes
        assert any(f"--{row.name}" in line and row.says in line for line in lines), row


def test_defaults_without_a_counterpart_are_no_news() -> None:
    for row in KOHYA:
        if row.place is not Place.HERE and row.default not in (None, "") and "." not in row.name:
            assert not from_command(parse_command(f"--seed 1 --{row.name} {row.default}")).warnings, row


ONETRAINER_BASE: Mapping[str, object] = {"training_method": "LORA", "concepts": [{"path": "fox"}], "tensorboard": False}
ONETRAINER_CASES: Mapping[str, tuple[object, Mapping[str, object]]] = {
    "model_type": ("FLUX_DEV_1", {}),
    "training_method": ("EMBEDDING", {}),
    "peft_type": ("LOHA", {}),
    "lora_decompose_output_axis": (True, {"lora_decompose": True}),
    **{
        name: (value, {"peft_type": "LOKR"})
        for name, value in (
            *(("lokr_dim", 3), ("lokr_decompose_both", True), ("lokr_decompose_factor", 4), ("lokr_use_tucker", True)),
            *(("lokr_full_matrix", True), ("lokr_weight_decompose", True)),
        )
    },
    "lokr_dora_on_output": (False, {"peft_type": "LOKR", "lokr_weight_decompose": True}),
    "oft_block_size": (64, {"peft_type": "OFT_2"}),
    "layer_filter_preset": ("attn-mlp", {}),
    "unet.train": (False, {}),
    "transformer.train": (False, {"model_type": "FLUX_DEV_1"}),
    "transformer.learning_rate": (0.5, {"model_type": "FLUX_DEV_1"}),
    "transformer.gradient_checkpointing": (False, {"model_type": "FLUX_DEV_1"}),
    "unet.gradient_checkpointing": (False, {}),
    "unet.weight_dtype": ("INT_8", {}),
    "transformer.weight_dtype": ("NFLOAT_4", {"model_type": "FLUX_DEV_1"}),
    "text_encoder.train": (False, {}),
    **{
        f"text_encoder{number}.{name}": (value, {"model_type": model})
        for number, model in (("_2", "STABLE_DIFFUSION_XL_10_BASE"), ("_3", "STABLE_DIFFUSION_35"))
        for name, value in (("train", False), ("learning_rate", 0.5))
    },
    **{
        f"embedding{name}": (value, {"training_method": "EMBEDDING"})
        for name, value in (
            *((".placeholder", "<owl>"), (".token_count", 3), (".initial_embedding_text", "owl")),
            ("_learning_rate", 0.5),
        )
    },
    "concepts": ([{"path": "owl"}], {}),
    "concept_file_name": ("concepts.json", {"concepts": None}),
    "resolution": ("640", {}),
    "aspect_ratio_bucketing": (False, {}),
    "concepts.path": ("owl", {}),
    "concepts.enabled": (False, {}),
    "concepts.balancing": (3.0, {}),
    "concepts.text.tag_dropout_enable": (
        True,
        {"concepts": [{"path": "fox", "text": {"tag_dropout_probability": 0.3}}]},
    ),
    "concepts.text.tag_dropout_probability": (
        0.3,
        {"concepts": [{"path": "fox", "text": {"tag_dropout_enable": True}}]},
    ),
    "concepts.image.enable_crop_jitter": (False, {}),
    "learning_rate_scheduler": ("COSINE", {}),
    "learning_rate_cycles": (3, {"learning_rate_scheduler": "COSINE_WITH_HARD_RESTARTS"}),
    "optimizer.optimizer": ("PRODIGY", {}),
    "optimizer.beta1": (0.5, {"optimizer": {"beta2": 0.9}}),
    "optimizer.beta2": (0.5, {"optimizer": {"beta1": 0.9}}),
    **{
        f"optimizer.{name}": (value, {"optimizer": {"optimizer": optimizer}})
        for optimizer, options in (
            ("ADAMW", {"eps": 1e-6, "amsgrad": True}),
            ("ADAMW_8BIT", {"min_8bit_size": 100}),
            ("ADAFACTOR", {"clip_threshold": 0.5, "decay_rate": -0.5, "scale_parameter": False}),
            (
                "PRODIGY",
                {
                    "beta3": 0.5,
                    "d0": 1e-5,
                    "d_coef": 0.5,
                    "decouple": True,
                    "use_bias_correction": True,
                    "safeguard_warmup": True,
                    "growth_rate": 2.0,
                },
            ),
        )
        for name, value in options.items()
    },
    "ema": ("GPU", {}),
    "ema_decay": (0.9, {"ema": "GPU"}),
    "ema_update_step_interval": (1, {"ema": "GPU"}),
    "loss_weight_fn": ("MIN_SNR_GAMMA", {}),
    "loss_weight_strength": (3.0, {"loss_weight_fn": "MIN_SNR_GAMMA"}),
    "timestep_distribution": ("LOGIT_NORMAL", {"model_type": "FLUX_DEV_1"}),
    "timestep_shift": (3.0, {"model_type": "FLUX_DEV_1"}),
    "dynamic_timestep_shifting": (True, {"model_type": "FLUX_DEV_1"}),
    "train_dtype": ("FLOAT_32", {}),
    "output_dtype": ("FLOAT_16", {}),
    "save_every": (5, {"save_every_unit": "EPOCH"}),
    "save_every_unit": ("STEP", {"save_every": 5}),
    "sample_definition_file_name": ("samples.json", {}),
    "samples": ([{"prompt": "a fox"}], {}),
    "sample_after": (7, {"sample_after_unit": "EPOCH", "samples": [{"prompt": "a fox"}]}),
    "sample_after_unit": ("EPOCH", {"sample_after": 7, "samples": [{"prompt": "a fox"}]}),
    **{
        f"samples.{name}": (value, {"samples": [{"prompt": "a fox"}]})
        for name, value in (
            *(("prompt", "an owl"), ("enabled", False), ("negative_prompt", "blurry"), ("seed", 3)),
            *(("diffusion_steps", 7), ("cfg_scale", 2.0), ("width", 832), ("height", 1216)),
        )
    },
    "tensorboard": (True, {}),
}
NOT_USED = {
    "text_encoder_4.train": "no base that bwlab trains has four text encoders",
    "text_encoder_4.learning_rate": "no base that bwlab trains has four text encoders",
    "concepts.include_subdirectories": "it acts where the folder has subfolders: tests/foreign/test_configs.py",
}


def nested(base: Mapping[str, object], name: str, value: object) -> dict[str, object]:
    """Return a table with a value at a dotted name, in the first entry of a list where there is one."""
    head, dot, rest = name.partition(".")
    if not dot:
        return {**base, name: value}
    inner = base.get(head) or {}
    if isinstance(inner, list):
        return {**base, head: [nested(inner[0], rest, value), *inner[1:]]}
    assert isinstance(inner, dict)
    return {**base, head: nested(inner, rest, value)}


@pytest.mark.parametrize(
    "row", [row for row in ONETRAINER if row.place is Place.HERE and row.name not in NOT_USED], ids=lambda row: row.name
)
def test_a_translated_key_of_onetrainer_acts(row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("concepts.json").write_text(json.dumps([{"path": "owl"}]))
    Path("samples.json").write_text(json.dumps([{"prompt": "an owl"}]))
    example = {Takes.SWITCH: True, Takes.WHOLE: 3, Takes.NUMBER: 0.5, Takes.TEXT: "PRIOR_PREDICTION"}.get(row.takes)
    value, common = ONETRAINER_CASES.get(row.name, (example, {}))
    base = {**ONETRAINER_BASE, **common}
    first, second = (only_values(from_json(Path("x.json"), config)) for config in (base, nested(base, row.name, value)))
    assert first != second


AI_BASE: Mapping[str, object] = {
    "type": "sd_trainer",
    "network": {"type": "lora", "linear": 4},
    "datasets": [{"folder_path": "fox"}],
    "model": {"arch": "sd1"},
    "train": {},
}
AI_CASES: Mapping[str, tuple[object, Mapping[str, object]]] = {
    "model.arch": ("flux", {}),
    "model.qtype": ("uint4", {"model": {"quantize": True}}),
    "model.is_xl": (True, {"train": {"train_text_encoder": True}}),
    "network.type": ("lokr", {}),
    "network.linear_alpha": (3.0, {}),
    "network.lokr_factor": (4, {"network": {"type": "lokr"}}),
    "network.lokr_full_rank": (False, {"network": {"type": "lokr"}}),
    "network.conv_alpha": (1.0, {"network": {"type": "lora", "linear": 4, "conv": 4}}),
    "network.linear": (8, {}),
    "embedding.tokens": (3, {"embedding": {"trigger": "<fox>"}}),
    "embedding.init_words": ("fox", {"embedding": {"trigger": "<fox>"}}),
    "datasets": ([{"folder_path": "owl"}], {}),
    "datasets.dataset_path": ("owl", {"datasets": [{}]}),
    "datasets.resolution": ([512, 768], {}),
    "datasets.buckets": (False, {}),
    "train.lr": (0.5, {}),
    "train.text_encoder_lr": (0.5, {"train": {"train_text_encoder": True}}),
    "train.embedding_lr": (0.5, {"embedding": {"trigger": "<fox>"}}),
    "train.train_unet": (False, {"train": {"train_text_encoder": True}}),
    "train.optimizer": ("prodigy", {}),
    "train.optimizer_params": ({"weight_decay": 0.3}, {}),
    "train.lr_scheduler": ("cosine", {}),
    "train.lr_scheduler_params": ({"num_warmup_steps": 3}, {}),
    "train.ema_config": ({"use_ema": True}, {}),
    "train.gradient_checkpointing": (False, {}),
    "train.dtype": ("bf16", {}),
    "train.timestep_type": ("linear", {"model": {"is_flux": True}}),
    "train.linear_timesteps": (True, {"model": {"is_flux": True}}),
    "train.disable_sampling": (True, {"sample": {"prompts": ["a fox"]}}),
    "save.dtype": ("bf16", {}),
    "sample.prompts": (["a fox"], {}),
    "sample.samples": ([{"prompt": "a fox"}], {}),
    "sample.neg": ("blurry", {"sample": {"prompts": ["a fox"]}}),
    "logging.project_name": ("foxes", {"logging": {"use_wandb": True}}),
    "logging.run_name": ("first", {"logging": {"use_wandb": True}}),
}


def ai_config(process: Mapping[str, object], name: str = "fox") -> str:
    """Return a config of ai-toolkit with one process, as YAML."""
    return str(yaml.safe_dump({"job": "extension", "config": {"name": name, "process": [dict(process)]}}))


@pytest.mark.parametrize("row", [row for row in AI_TOOLKIT if row.place is Place.HERE], ids=lambda row: row.name)
def test_a_translated_key_of_ai_toolkit_acts(row: Row) -> None:
    example = {Takes.SWITCH: True, Takes.WHOLE: 3, Takes.NUMBER: 0.5, Takes.TEXT: "something"}.get(row.takes)
    value, common = AI_CASES.get(row.name, (example, {}))
    base = {**AI_BASE, **common}
    changed = ai_config(base, "owl") if row.name == "name" else ai_config(nested(base, row.name, value))
    first, second = (only_values(from_yaml(Path("x.yaml"), text)) for text in (ai_config(base), changed))
    assert first != second


def test_unknown_options_of_a_command_are_errors_with_the_nearest_name() -> None:
    with pytest.raises(BwlabError, match=r"--network_dimm \(did you mean network_dim\?\): its trainer has no such"):
        from_command(parse_command("train_network.py --network_dimm 16"))
