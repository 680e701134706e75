"""Commands of kohya's trainer: what they mean where the meanings differ, and what is said of the rest."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from bwlab.blocks.notations.translate import translate_from
from bwlab.blocks.spec import parse_spec
from bwlab.cli.app import main
from bwlab.errors import BwlabError
from bwlab.foreign.ranks import scheme_of
from bwlab.foreign.read import translate
from bwlab.foreign.translator import Translation
from bwlab.training.settings import build_config, collect, read_config


def settings(command: str) -> dict[str, object]:
    """Return the settings that a command means, all of which bwlab takes."""
    translation = translate(command)
    build_config(collect(None, None, {}, (), translation.settings))
    return {setting.key: setting.value for setting in translation.settings}


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        # The text encoder is trained unless the command says otherwise; alpha is 1.
        ("--network_dim 16", {"adapter.blocks": "all=16, te=16", "adapter.alpha": 1.0, "adapter.type": "lora"}),
        ("--network_dim 16 --network_train_unet_only", {"adapter.blocks": "all=16"}),
        ("--network_dim 16 --network_train_text_encoder_only", {"adapter.blocks": "te=16"}),
        ("sdxl_train_network.py --network_dim 16", {"adapter.blocks": "all=16, te1=16, te2=16"}),
        ("sdxl_train_network.py --cache_text_encoder_outputs", {"adapter.blocks": "all=4"}),
        ("--learning_rate 1e-4 --text_encoder_lr 0", {"adapter.blocks": "all=4", "training.block_lr": None}),
        ("--network_args conv_dim=4 conv_alpha=1", {"adapter.type": "locon", "adapter.blocks": "all=4, te=4"}),
        ("--network_dim 8 --network_alpha 8 --network_args conv_dim=4 conv_alpha=4", {"adapter.alpha": None}),
        # Learning rates
        ("--learning_rate 1e-4", {"training.lr": 1e-4, "training.block_lr": None}),
        ("--learning_rate 1e-4 --unet_lr 2e-4", {"training.lr": 2e-4, "training.block_lr": "te=0.0001"}),
        ("--unet_lr 1e-4 --text_encoder_lr 5e-5", {"training.lr": 1e-4, "training.block_lr": "te=5e-05"}),
        (
            "sdxl_train_network.py --learning_rate 1e-4 --text_encoder_lr 5e-5 2e-5",
            {"training.block_lr": "te1=5e-05, te2=2e-05"},
        ),
        ("--network_train_text_encoder_only --text_encoder_lr 5e-5 --unet_lr 0", {"training.lr": 5e-5}),
        # Steps
        ("--max_train_epochs 10 --max_train_steps 99", {"training.epochs": 10, "training.steps": None}),
        ("--seed 1", {"training.steps": 1600, "training.batch_size": 1, "training.lr": 2e-6}),
        ("--lr_warmup_steps 100", {"training.warmup": 100, "training.warmup_share": None}),
        ("--lr_warmup_steps 0.1", {"training.warmup": None, "training.warmup_share": 0.1}),
        ("--lr_warmup_steps 5%", {"training.warmup_share": 0.05}),
        ("--lr_scheduler cosine --lr_scheduler_num_cycles 3", {"training.cycles": None}),
        ("--lr_scheduler cosine_with_restarts --lr_scheduler_num_cycles 3", {"training.cycles": 3}),
        # Optimisers, with the defaults of their classes
        ("--optimizer_type AdamW8bit", {"training.optimizer": "adamw8bit", "training.weight_decay": 0.01}),
        ("--use_8bit_adam", {"training.optimizer": "adamw8bit"}),
        ("--optimizer_type Lion", {"training.optimizer": "lion", "training.weight_decay": 0.0}),
        ("--optimizer_type prodigy", {"training.optimizer_options.safeguard_warmup": False}),
        (
            "--optimizer_type prodigy --optimizer_args safeguard_warmup=True weight_decay=0.1 betas=0.9,0.99",
            {
                "training.optimizer_options.safeguard_warmup": True,
                "training.optimizer_options.betas": [0.9, 0.99],
                "training.weight_decay": 0.1,
            },
        ),
        (
            "--optimizer_type AdaFactor --optimizer_args relative_step=False scale_parameter=False warmup_init=False",
            {"training.optimizer": "adafactor", "training.optimizer_options.scale_parameter": False},
        ),
        # Data
        ("--resolution 512,512", {"data.resolution": 512}),
        ('--resolution "768, 768"', {"data.resolution": 768}),
        ("--seed 1", {"data.caption_extension": ".caption", "data.buckets": None, "data.bucket_min": None}),
        ("--enable_bucket", {"data.buckets": True, "data.bucket_min": 256, "data.bucket_max": 1024}),
        ("--enable_bucket --bucket_no_upscale", {"data.upscale": False}),
        ("--caption_extention .txt", {"data.caption_extension": ".txt"}),
        ("--dataset_config set.toml --train_data_dir img", {"data.dataset": "set.toml", "data.folder": None}),
        ("--reg_data_dir reg --prior_loss_weight 0.5", {"regularisation.folder": "reg", "regularisation.weight": 0.5}),
        # Precision and files
        ("--seed 1", {"training.precision": "fp32", "output.dtype": "fp32", "preview.enabled": False}),
        ("--mixed_precision bf16 --save_precision float", {"training.precision": "bf16", "output.dtype": "fp32"}),
        ("--output_dir loras --output_name fox", {"out": "loras/fox", "output.name": "fox"}),
        ("--output_dir loras", {"out": "loras", "output.name": None}),
        ("--save_every_n_epochs 2", {"checkpoint.every_epochs": 2, "checkpoint.keep": 1_000_000}),
        ("--save_every_n_epochs 2 --save_last_n_epochs 3", {"checkpoint.keep": 3}),
        ("--save_every_n_steps 100 --save_last_n_steps 300", {"checkpoint.every": 100, "checkpoint.keep": 4}),
        ("--max_train_epochs 10 --save_n_epoch_ratio 5", {"checkpoint.every_epochs": 2}),
        ("--logging_dir logs", {"tracking.trackers": ["tensorboard"]}),
        ("--log_with all", {"tracking.trackers": ["tensorboard", "wandb"]}),
        # Flow matching
        (
            "flux_train_network.py --network_dim 8",
            {
                "adapter.blocks": "all=8, modulation=8, te1=8",
                "training.timestep_sampling": "uniform",
                "training.timestep_shift": 3.0,
            },
        ),
        (
            "flux_train_network.py --timestep_sampling sigmoid --discrete_flow_shift 3",
            {"training.timestep_sampling": "logit_normal", "training.timestep_shift": 1.0},
        ),
        ("flux_train_network.py --timestep_sampling shift --discrete_flow_shift 2", {"training.timestep_shift": 2.0}),
        (
            "flux_train_network.py --timestep_sampling flux_shift",
            {"training.timestep_sampling": "logit_normal", "training.timestep_shift": None},
        ),
        (
            "flux_train_network.py --network_dim 2 --network_train_unet_only --network_args "
            "train_double_block_indices=0-1 train_single_block_indices=none",
            {
                "adapter.blocks": "double0=2, double0.modulation=2, double1=2, double1.modulation=2",
            },
        ),
        (
            "sd3_train_network.py --network_dim 2",
            {"training.timestep_sampling": "uniform", "training.timestep_shift": 1.0},
        ),
        # LyCORIS
        ("--network_module lycoris.kohya", {"adapter.type": "locon"}),
        ("--network_module lycoris.kohya --network_args algo=lora preset=attn-mlp", {"adapter.type": "lora"}),
        ("--network_module lycoris.kohya --network_args algo=lokr factor=8", {"adapter.options.factor": 8}),
        ("--network_module lycoris.kohya --network_args algo=loha dora_wd=True", {"adapter.type": "doha"}),
        (
            "--network_module lycoris.kohya --network_dim 16 --network_alpha 16 --network_args conv_dim=4 conv_alpha=4",
            {"adapter.alpha": None},
        ),
    ],
)  # fmt: skip
def test_the_meaning_of_a_command(command: str, expected: Mapping[str, object]) -> None:
    found = settings(command)
    assert {key: found.get(key) for key in expected} == expected


def test_a_list_of_ranks_is_the_spec_that_bwlab_blocks_gives() -> None:
    numbers = ",".join(str(number) for number in range(1, 26))
    found = settings(f"--network_train_unet_only --network_args block_dims={numbers}")["adapter.blocks"]
    assert found == translate_from("kohya", numbers, scheme_of("sd"), "rank").text


def test_weights_of_blocks_are_rates_and_leave_blocks_without_one_out() -> None:
    command = (
        "--network_dim 8 --unet_lr 1e-3 --text_encoder_lr 1e-4 --network_args "
        "down_lr_weight=1,1,1,1,1,1,1,1,1,1,1,0.5 mid_lr_weight=0 up_lr_weight=0.3"
    )
    found, scheme = settings(command), scheme_of("sd")
    ranks = parse_spec(str(found["adapter.blocks"]), scheme, kind="rank").values
    rates = parse_spec(str(found["training.block_lr"]), scheme, kind="rate", default=1e-3).values
    assert (ranks["te"], rates["te"]) == (8, 1e-4)
    assert ranks["mid_block.attentions.0"] == ranks["mid_block.resnets.1"] == 0
    assert ranks["down_blocks.0.attentions.0"] == ranks["up_blocks.3.attentions.2"] == 8
    assert rates["down_blocks.3.resnets.1"] == 5e-4  # input block 11, the last of kohya's 12
    assert rates["up_blocks.0.resnets.0"] == 3e-4  # output block 0
    assert rates["up_blocks.3.attentions.2"] == 1e-3  # weights that are missing are 1


def test_another_rank_for_convolutions_is_that_of_resnets() -> None:
    found, scheme = settings("--network_dim 8 --network_args conv_dim=2"), scheme_of("sd")
    ranks = parse_spec(str(found["adapter.blocks"]), scheme, kind="rank").values
    for path, rank in ranks.items():
        outside = path in ("conv_in", "conv_norm_out", "conv_out", "time_embedding")
        assert rank == (0 if outside else 8 if "attentions" in path or path == "te" else 2), path


def test_ranks_of_convolutions_stand_beside_lists_of_the_blocks() -> None:
    command = "--network_dim 8 --network_args conv_dim=2 mid_lr_weight=0"
    ranks = parse_spec(str(settings(command)["adapter.blocks"]), scheme_of("sd"), kind="rank").values
    assert (ranks["down_blocks.0.attentions.0"], ranks["down_blocks.0.resnets.0"]) == (8, 2)
    assert ranks["mid_block.attentions.0"] == ranks["mid_block.resnets.0"] == 0
    dims = ",".join(["6"] * 25)
    ranks = parse_spec(
        str(settings(f"--network_args block_dims={dims} conv_dim=3")["adapter.blocks"]), scheme_of("sd"), kind="rank"
    ).values
    assert (ranks["mid_block.attentions.0"], ranks["mid_block.resnets.0"]) == (6, 3)


def test_other_alphas_of_convolutions_are_named() -> None:
    lycoris = "--network_module lycoris.kohya --network_dim 16 --network_alpha 8 --network_args"
    lists = f"--network_args block_alphas={','.join(['8'] * 25)}"
    for command, name, other in (
        (f"{lycoris} conv_dim=8 conv_alpha=1", "conv_alpha=1", "1"),
        (f"{lycoris} conv_alpha=1", "conv_alpha=1", "1"),
        ("--network_dim 8 --network_alpha 4 --network_args conv_dim=8", "conv_dim=8", "1"),
        (f"{lists} conv_dim=8 conv_alpha=2", "conv_alpha=2", "2"),
    ):
        (warning,) = translate(command).warnings
        assert f"--network_args {name} is not translated: all layers have the alpha" in warning
        assert f"and none {other}" in warning
    assert not translate(f"{lycoris} conv_dim=8").warnings, "LyCORIS' convolutions have the alpha of all layers"


def test_each_text_encoder_has_its_own_rate_beside_weights_of_blocks() -> None:
    command = "sdxl_train_network.py --learning_rate 1e-4 --text_encoder_lr 5e-5 2e-5 --network_args mid_lr_weight=0.5"
    scheme = scheme_of("sdxl")
    rates = parse_spec(str(settings(command)["training.block_lr"]), scheme, kind="rate", default=1e-4).values
    by_name = {module.cell: rates[module.path] for module in scheme.modules}
    assert (by_name["te1"], by_name["te2"]) == (5e-5, 2e-5)


def test_prompts_of_samples(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("# two prompts\na fox --n blurry, dark --w 513 --h 768 --d 7 --l 5.5 --s 28\n\nan owl\n")
    found = settings(f"--sample_prompts {path} --sample_every_n_epochs 2")
    expected = {
        "preview.prompts": ["a fox", "an owl"],
        "preview.negative": "blurry, dark",
        "preview.width": 512,
        "preview.height": 768,
        "preview.seed": 7,
        "preview.cfg": 5.5,
        "preview.steps": 28,
        "preview.every_epochs": 2,
    }
    assert {key: found.get(key) for key in expected} == expected
    (tmp_path / "prompts.toml").write_text('[prompt]\nscale = 4\n[[prompt.subset]]\nprompt = "a fox"\n')
    found = settings(f"--sample_prompts {tmp_path / 'prompts.toml'} --sample_every_n_steps 9")
    assert (found["preview.prompts"], found["preview.cfg"], found["preview.every"]) == (["a fox"], 4, 9)
    with pytest.raises(BwlabError, match="its prompts cannot be read"):
        translate(f"--sample_prompts {tmp_path / 'none.txt'} --sample_every_n_steps 9")


SCRIPT = """#!/bin/bash
# trains a fox
cd sd-scripts
accelerate launch --num_cpu_threads_per_process=2 --multi_gpu \\
  "./sdxl_train_network.py" \\
  --network_dim 16 --train_data_dir="my images" \\
  --xformers
"""
BATCH = r"""@echo off
REM trains a fox
accelerate launch .\sdxl_train_network.py ^
  --network_dim 16 ^
  --train_data_dir="C:\my images" --xformers
"""


@pytest.mark.parametrize(
    ("name", "text", "folder"),
    [("run.sh", SCRIPT, "my images"), ("run.bat", BATCH, r"C:\my images")],
    ids=["sh", "bat"],
)
def test_scripts_are_read(tmp_path: Path, name: str, text: str, folder: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    found = settings(str(path))
    assert found["adapter.blocks"] == "all=16, te1=16, te2=16"
    assert found["data.folder"] == folder


def test_a_settings_file_is_read_and_options_win(tmp_path: Path) -> None:
    path = tmp_path / "kohya.toml"
    path.write_text(
        '[one]\nnetwork_dim = 8\nnetwork_args = ["conv_dim=8"]\n[two]\nresolution = "640,640"\nstrange = 1\n'
    )
    assert settings(str(path))["adapter.blocks"] == "all=8, te=8"
    assert settings(f"train_network.py --config_file {path.with_suffix('')}")["data.resolution"] == 640
    found = settings(f"train_network.py --config_file {path} --network_dim 2 --network_args conv_dim=2")
    assert found["adapter.blocks"] == "all=2, te=2"
    assert any("strange is an option that kohya's trainer lacks" in note for note in translate(str(path)).notes)


def lines(translation: Translation) -> str:
    return "\n".join([*translation.warnings, *translation.notes])


def test_what_is_not_translated_is_named() -> None:
    translation = translate(
        "--seed 1 --color_aug --xformers --lowram --masked_loss --network_args conv_dim=8 conv_alpha=4"
    )
    assert [line.partition(" is not")[0] for line in translation.warnings] == [
        "kohya's --color_aug",
        "kohya's --masked_loss",
        "kohya's --network_args conv_alpha=4",
    ]
    assert "kohya's --xformers: not needed, PyTorch's own attention is used" in translation.notes
    assert "trains the text encoder unless it has --network_train_unet_only" in lines(translation)
    assert "seed is drawn at random" not in lines(translation)
    assert "seed is drawn at random" in lines(translate("--network_dim 4"))
    assert "--guidance_scale is 3.5 by default" in lines(translate("flux_train_network.py --seed 1"))


@pytest.mark.parametrize(
    ("command", "found"),
    [
        ("train_network.py --network_dimm 3", "did you mean network_dim"),
        ("train_network.py --network_dim", "its value is missing"),
        ("train_network.py --network_dim x", "not a whole number"),
        ("train_network.py --xformers yes", "'yes' belongs to no option"),
        ("train_network.py --train_data_dir my images", "'images' belongs to no option"),
        ("train_network.py fox --seed 1", "it is no option"),
        ("train_network.py --train_data_dir $DATA", "\\$DATA is a variable of a shell"),
        ("train_network.py --output_name 'fox", "Close its quotation marks"),
        ("sdxl_train.py --seed 1", "it does not train adapters"),
        ("python --seed 1", "starts none of its scripts"),
        ("--in_json meta.json", "captions are read from text files"),
        ("--optimizer_args lr", "is not of the form name=value"),
        ("--network_args block_dims=1,2", "not a list of 25 numbers"),
        ("--resolution a,b", "not a size"),
        ("--lr_warmup_steps x", "not a number"),
        ("no-such-file.toml", "no such file, and no command"),
    ],
)
def test_mistakes_are_errors(command: str, found: str) -> None:
    with pytest.raises(BwlabError, match=found):
        translate(command)


@pytest.mark.parametrize(
    ("command", "key", "word"),
    [
        ("--optimizer_type DAdaptAdam", "training.optimizer", "DAdaptAdam"),
        ("--network_module networks.dylora", "adapter.type", "networks.dylora"),
    ],
)
def test_words_without_a_counterpart_are_kept_for_bwlab_to_refuse(command: str, key: str, word: str) -> None:
    assert settings(command)[key] == word


def test_a_schedule_without_a_counterpart_is_refused_unless_another_is_given() -> None:
    translated = translate("--lr_scheduler inverse_sqrt").settings
    with pytest.raises(BwlabError, match="kohya's --lr_scheduler inverse_sqrt"):
        read_config(translated=translated)
    assert read_config(sets=["training.schedule=cosine"], translated=translated).training.schedule == "cosine"


def test_what_is_given_beside_wins_with_all_that_depends_on_it() -> None:
    command = "--unet_lr 1e-4 --text_encoder_lr 5e-5 --optimizer_type prodigy --dataset_config set.toml"
    given = ["adapter.blocks=upper=4", "training.optimizer=lion", "data.folder=img"]
    config = read_config(sets=given, translated=translate(command).settings)
    assert (config.adapter.blocks, config.training.block_lr) == ("upper=4", None)
    assert (config.training.optimizer_options, config.training.weight_decay) == ({}, 0.01)
    assert (config.data.folder, config.data.dataset, config.training.lr) == ("img", None, 1e-4)


def test_the_command_line_shows_and_writes_the_translation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.toml"
    command = "train_network.py --network_dim 16 --xformers --train_data_dir img"
    with pytest.raises(SystemExit) as end:
        main(["config", "init", str(path), "--from-kohya", command])
    assert not end.value.code
    error = capsys.readouterr().err
    assert "bwlab: note: kohya's --xformers: not needed, PyTorch's own attention is used\n" in error
    assert 'blocks = "all=16, te=16"  # kohya\'s --network_dim 16\n' in path.read_text()
    assert tomllib.loads(path.read_text())["data"]["folder"] == "img"
    with pytest.raises(SystemExit):
        main(
            ["train", "--from", command, "--dry-run", "--base", str(tmp_path / "none"), "--out", str(tmp_path / "out")]
        )
    shown = capsys.readouterr().out
    assert 'adapter.blocks = "all=16, te=16"  # kohya\'s --network_dim 16\n' in shown
    assert "base =" not in shown


@pytest.mark.parametrize(
    ("command", "found"),
    [
        (f"--min_snr_gamma {10**400}", "not a number"),
        ("--lr_warmup_steps inf", "not a number"),
        ("--lr_warmup_steps 1e999", "not a number"),
        (f"--output_name {'x' * 60_000}", "more than the 50000 of the longest command"),
    ],
    ids=["digits", "infinite", "overflow", "long"],
)
def test_numbers_that_are_none_and_endless_commands_are_refused(command: str, found: str) -> None:
    with pytest.raises(BwlabError, match=found):
        translate(f"--network_dim 4 {command}")


def test_what_acts_on_a_terminal_is_escaped_in_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.toml").write_text('network_dim = 4\noutput_name = "fox\u202egnp\u0085"\n', encoding="utf-8")
    with pytest.raises(SystemExit) as end:
        main(["config", "show", "--from", str(tmp_path / "a.toml")])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "\u202e" not in text
    assert "\u0085" not in text
    assert tomllib.loads(text)["output"]["name"] == "fox\u202egnp\u0085"
