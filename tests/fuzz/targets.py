"""The kinds of input that the fuzzer breaks, and the commands that read them."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from tests.fuzz.checked import Broken, run_checked
from tests.fuzz.mutations import damaged, mutated, mutated_text
from tests.fuzz.pickled import mutated_pickle, whole_files
from tests.fuzz.seeds import write_seeds
from tests.fuzz.stopped_run import STATE, StoppedRun

# FILE is the broken input, GOOD a whole adapter, OUT a new path.
ADAPTER_COMMANDS = (
    "inspect FILE",
    "inspect FILE --json",
    "analyze norms FILE --json",
    "analyze norms FILE --modules",
    "analyze norms FILE --report OUT",
    "analyze conflict FILE GOOD --json",
    "analyze conflict GOOD FILE --details",
    "analyze conflict FILE FILE --report OUT",
    "convert FILE OUT.safetensors --to kohya --drop-unknown",
    "convert FILE OUT.safetensors --to ldm",
    "convert FILE OUT.safetensors --to diffusers --drop-unknown",
    "convert FILE OUT --to peft",
    "convert FILE OUT.safetensors --rank 2 --drop-unknown",
    "convert FILE OUT.safetensors --dtype fp16 --blocks upper=0.5",
    "merge FILE GOOD --out OUT.safetensors --drop-unknown",
    "merge GOOD FILE --out OUT.safetensors --rank 3 --scale 0.5 --scale 1e30",
    "merge FILE GOOD --out OUT.safetensors --method ties --rank 2",
    "merge FILE GOOD --out OUT.safetensors --method dare --rank 2",
)
PICKLE_COMMANDS = (
    "inspect FILE",
    "inspect FILE --json",
    "convert FILE OUT.safetensors --to kohya --drop-unknown",
    "convert FILE OUT --to peft",
)
PICTURE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
CAPTION = "fox, a red fox, (red:1.2), <lora:fox:1>, grass\n"
SETTINGS = """\
base = "emoji"
[data]
folder = "missing"
shuffle_tags = true
[adapter]
type = "locon"
blocks = "upper=16, mid=4"
alpha = 8
[training]
steps = 100
batch_size = 4
lr = 5e-4
seed = 0
schedule = "cosine"
[checkpoint]
every = 10
[preview]
prompts = ["a fox"]
"""
KOHYA_DATASET = """\
[general]
caption_extension = ".txt"
shuffle_caption = true
keep_tokens = 1
[[datasets]]
resolution = 64
batch_size = 2
  [[datasets.subsets]]
  image_dir = "missing"
  num_repeats = 3
  class_tokens = "fox"
"""
PLAN = """\
title = "Upper blocks or all?"
base = "emoji"
[data]
identities = ["fox"]
styles = ["ink"]
[sampling]
prompts = ["{style}, {identity}, white background"]
seeds = 4
[defaults]
training.lr = 5e-4
[adapters.id-all]
learns = "identity"
training.steps = 80
[adapters.style-upper]
learns = "style"
adapter.blocks = "upper=16"
[compositions.base]
use = {}
[compositions.together]
use = {id-all = 1, style-upper = "out3=0.5, *=1"}
[claims."the style is worth its harm"]
better = "together"
worse = "base"
"""
KOHYA_SETTINGS = """\
[model]
pretrained_model_name_or_path = "owner/base"
[training]
train_data_dir = "missing"
output_dir = "runs"
output_name = "fox"
network_module = "networks.lora"
network_dim = 16
network_alpha = 8
network_args = ["conv_dim=8", "block_dims=4,4,4,4,4,4,4,4,4,4,4,4,8,8,8,8,8,8,8,8,8,8,8,8,8"]
learning_rate = 1e-4
unet_lr = "1e-4"
max_train_steps = 1000
lr_scheduler = "cosine_with_restarts"
lr_warmup_steps = 0.1
optimizer_type = "AdamW8bit"
optimizer_args = ["weight_decay=0.1", "betas=0.9,0.99"]
mixed_precision = "bf16"
min_snr_gamma = 5
"""
KOHYA_COMMAND = """\
#!/bin/bash
NAME="fox"
accelerate launch --num_cpu_threads_per_process 1 sdxl_train_network.py \\
  --pretrained_model_name_or_path="base.safetensors" --train_data_dir "img" \\
  --output_name="$NAME" --network_module=lycoris.kohya --network_dim=16 \\
  --network_args "algo=loha" "conv_dim=4" --learning_rate=1e-4 --max_train_epochs 10 # the end
"""
ONETRAINER = """\
{"__version": 9, "training_method": "LORA", "model_type": "FLUX_DEV_1", "base_model_name": "owner/base",
 "concepts": [{"path": "fox", "balancing": 2.0, "image": {"enable_random_flip": true},
               "text": {"prompt_source": "sample"}}],
 "samples": [{"prompt": "a fox", "seed": 42}], "learning_rate": 0.0003, "epochs": 10, "batch_size": 2,
 "resolution": "512", "lora_rank": 16, "transformer": {"train": true, "weight_dtype": "NFLOAT_4"},
 "optimizer": {"optimizer": "ADAMW", "beta1": 0.9, "eps": 1e-8}, "save_every": 5, "save_every_unit": "EPOCH"}
"""
AI_TOOLKIT = """\
job: extension
config:
  name: "fox"
  process:
    - type: 'sd_trainer'
      training_folder: "output"
      network: {type: "lora", linear: 16, linear_alpha: 16, network_kwargs: {only_if_contains: ["single_blocks.7"]}}
      save: {dtype: float16, save_every: 250}
      datasets:
        - {folder_path: "images", caption_ext: "txt", caption_dropout_rate: 0.05, resolution: [512, 768]}
      train: {batch_size: 1, steps: 2000, optimizer: "adamw8bit", lr: 1e-4, dtype: bf16}
      model: {name_or_path: "owner/base", is_flux: true, quantize: true}
      sample: {sample_every: 250, prompts: ["a fox"]}
"""
FROM_COMMANDS = ("config show --from FILE", "config init OUT.toml --from FILE", "train --from FILE --out OUT --dry-run")


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Attributes:
        name: the name of the kind, such as `"adapter"`.
        file: the path of the broken file in its folder, such as `"data/a.txt"`.
        broken: draws the bytes of a broken file.
        commands: the commands that read it; see `ADAPTER_COMMANDS`.
        beside: path -> bytes of whole files beside it.
        given: the path that stands for FILE, if it is not `file`.

    """

    name: str
    file: str
    broken: Callable[[Random], bytes]
    commands: Sequence[str]
    beside: dict[str, bytes]
    given: str = ""


class Bench:
    """A folder in which broken files are written and read.

    Attributes:
        targets: the kinds of input by name.
        seeds: the folder of whole files.
        files: the whole files by name.
        stopped: the training whose states are broken.
        good: the whole adapter that stands for GOOD: the one of which the last broken one was made, whose shapes fit.

    """

    def __init__(self, folder: Path) -> None:
        """Write the whole files into a new folder."""
        self._folder = folder / "read"
        self._folder.mkdir(parents=True)
        self.seeds = folder / "seeds"
        self.files = write_seeds(self.seeds)
        self.good = self.seeds / "half.safetensors"
        self.stopped = StoppedRun(folder / "run", self._folder)
        shutil.rmtree(self._folder)
        self._folder.mkdir()
        self.targets = {target.name: target for target in self._targets()}

    def _targets(self) -> Iterator[Target]:
        names = sorted(self.files)
        config = (self.seeds / "adapter_config.json").read_text()
        weights = {"adapter_model.safetensors": self.files["peft"].to_bytes()}
        pictures = {kind: picture(kind) for kind in PICTURE_FORMATS}

        def adapter(random: Random) -> bytes:
            name = random.choice(names)
            self.good = self.seeds / f"{name}.safetensors"
            return mutated(self.files[name], random)

        def image(random: Random) -> bytes:
            return damaged(pictures[random.choice(PICTURE_FORMATS)], random)

        def text(whole: str) -> Callable[[Random], bytes]:
            return lambda random: mutated_text(whole, random)

        yield Target("adapter", "file.safetensors", adapter, ADAPTER_COMMANDS, {})
        yield Target("peft", "adapter_config.json", text(config), ADAPTER_COMMANDS[:8], weights, next(iter(weights)))
        yield Target("settings", "a.toml", text(SETTINGS), ("config show --config FILE",), {})
        train = "train --base emoji --dataset FILE --out OUT --steps 1 --dry-run"
        yield Target("dataset", "a.toml", text(KOHYA_DATASET), ("data check FILE", train), {})
        for name, file, whole in (
            ("kohya-settings", "a.toml", KOHYA_SETTINGS),
            ("kohya-command", "a.sh", KOHYA_COMMAND),
            ("onetrainer", "a.json", ONETRAINER),
            ("ai-toolkit", "a.yaml", AI_TOOLKIT),
        ):
            yield Target(name, file, text(whole), FROM_COMMANDS, {})
        yield Target("plan", "a.toml", text(PLAN), ("study --plan FILE --out OUT --dry-run",), {})
        images = {"data/a.png": pictures["PNG"]}
        yield Target("caption", "data/a.txt", text(CAPTION), ("data check FILE",), images, "data")
        captions = {"data/a.txt": CAPTION.encode()}
        yield Target("image", "data/a.png", image, ("data check FILE",), captions, "data")
        torch_files = whole_files()
        yield Target(
            "pickle", "file.pt", lambda random: mutated_pickle(random.choice(torch_files), random), PICKLE_COMMANDS, {}
        )
        yield Target("base", "file.safetensors", adapter, ("blocks FILE",), {})
        resume = ("--quiet train OUT/config.toml --resume",)
        yield Target("training-state", STATE, self.stopped.broken_state, resume, self.stopped.files)

    def run(
        self, target: Target, content: bytes, commands: Sequence[str], code: int | None = None
    ) -> list[tuple[str, Broken]]:
        """Return the promises that these commands break on a file, each with its command.

        Args:
            target: the kind of file.
            content: its bytes.
            commands: the commands that read it.
            code: the exit code with which they have to end; None: that of success or of an error.

        """
        broken = []
        for command in commands:
            for name, data in {**target.beside, target.file: content}.items():
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self._folder / name).write_bytes(data)
            words = [self._word(word, target) for word in command.split()]
            try:
                ended = run_checked(words, self._folder, len(content))
                if code is not None and ended != code:
                    broken.append((command, Broken(f"{command}: it ends with {ended}")))
            except Broken as error:
                broken.append((command, error))
            shutil.rmtree(self._folder)
            self._folder.mkdir()
        return broken

    def _word(self, word: str, target: Target) -> str:
        if word.startswith("OUT"):
            return str(self._folder / f"out{word.removeprefix('OUT')}")
        return {"FILE": str(self._folder / (target.given or target.file)), "GOOD": str(self.good)}.get(word, word)


def picture(kind: str) -> bytes:
    """Return a small image in one of Pillow's formats."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, kind)
    return written.getvalue()
