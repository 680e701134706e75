"""Fixtures that every part's tests share."""

from __future__ import annotations

import ctypes
import functools
import gc
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from bwlab import messages
from bwlab.base import load

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

# Read once, when torch is first imported: on models this small several threads only wait for each other, and on a busy
# machine for minutes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# A base that is neither file nor folder would be asked of the hub; no test may use the network.
os.environ["HF_HUB_OFFLINE"] = "1"

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# Skips by what their reason says, and how to have those tests run.
REMEDIES = {
    "Chromium": "apt-get install chromium (any Chromium or Chrome on PATH will do)",
    "shared/loras": "put real adapter files into ../shared/loras, beside the clone",
    "GPU": "run on a machine with a GPU",
}

LARGE_MARK = "pytest.mark.large"
MUCH_MEMORY = 1_200_000_000

TINY_TOKENS = 16
TINY_WIDTH = 32
XL_SECOND_WIDTH = 24
XL_POOLED_WIDTH = 20


# Files that take longest; they are begun first, so that at the end no process waits for another. Those that start
# processes of their own, and so take most memory, are not neighbours.
LONGEST = (
    "tests/analysis/study/test_ray_runner.py",
    "tests/options/test_train_options.py",
    "tests/training/test_unplanned_ends.py",
    "tests/benchmarks/test_real_files.py",
    "tests/training/test_distributed.py",
    "tests/analysis/study/test_killed.py",
    "tests/training/test_options.py",
    "tests/options/test_analysis_options.py",
    "tests/ui/test_page.py",
    "tests/analysis/cli/test_base.py",
    "tests/docs/test_tour.py",
    "tests/emoji/test_build.py",
    "tests/test_wheel.py",
)


# Files with processes that are forked from one (`tests.forked`), which takes long to make.
FORKED = (
    "tests/training/test_unplanned_ends.py",
    "tests/training/test_distributed.py",
    "tests/analysis/study/test_killed.py",
    "tests/training/test_options.py",
    "tests/benchmarks/test_train_step.py",
    "tests/dataset/test_encoding.py",
)

# Folders whose files share the finished study of tests/analysis/study/finished.py, which is slow to make.
STUDIES = ("tests/analysis/study/", "tests/analysis/cli/test_study.py")


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave files without a test marked `large` unread where only such tests are wanted."""
    alone = os.environ.get("LARGE_TESTS") == "alone" and collection_path.name.startswith("test_")
    return True if alone and LARGE_MARK not in collection_path.read_text(encoding="utf-8") else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests marked `large` apart, as the environment variable LARGE_TESTS says: `alone`, or `without` them."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))
    wanted = os.environ.get("LARGE_TESTS")
    if wanted not in ("alone", "without"):
        return
    kept = [item for item in items if (item.get_closest_marker("large") is not None) == (wanted == "alone")]
    chosen = set(kept)
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = kept


def pytest_collectstart() -> None:
    """Collect no garbage while tests are collected, and all that they need is imported: it stays."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Collect garbage again, but not what was imported."""
    gc.freeze()
    gc.enable()
    Frozen.modules = len(sys.modules)


class Frozen:
    """How many modules had been imported when the garbage collector was last told to pass over what they made."""

    modules = 0


def pytest_runtest_logfinish() -> None:
    """Pass over what new modules made when garbage is collected; it stays, and takes a twelfth of the tests' time."""
    if len(sys.modules) > Frozen.modules + 200:
        _freeze()


def _freeze() -> None:
    """Collect garbage, and have what is left passed over from now on: it is imported, and takes a second to look at."""
    gc.collect()
    gc.freeze()
    Frozen.modules = len(sys.modules)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Have each process run whole files, and one of them all files that share a study, or a process to fork from."""
    from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            if file in FORKED:
                return "forked"
            return "study" if file.startswith(STUDIES) and file not in LONGEST else file

    return Scheduling(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests were left out, why, and how to have them run."""
    counts: dict[str, int] = {}
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        counts[reason] = counts.get(reason, 0) + 1
    if counts:
        terminalreporter.section("left out")
    for reason, count in sorted(counts.items()):
        remedy = next((text for word, text in REMEDIES.items() if word in reason), "")
        terminalreporter.write_line(f"{count} tests: {reason}" + (f". To run them: {remedy}" if remedy else ""))


@pytest.fixture(autouse=True, scope="session")
def _without_waiting_for_the_disk() -> Iterator[None]:
    """Leave out the wait for the disk after each file; no test loses power. Tests of the order of writes sync again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _without_lines_of_progress() -> Iterator[None]:
    """Print no progress where there is no terminal, however slow the machine; tests of these lines set the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(messages, "LINES_AFTER", math.inf)
        yield


@pytest.fixture(autouse=True, scope="session")
def _small_pipelines_are_read_once() -> Iterator[None]:
    """Copy small pipelines that were loaded before; see `tests.loads`."""
    from tests.loads import Loads

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "load_folder", Loads(load.load_folder))
        yield


@pytest.fixture(autouse=True, scope="session")
def _signatures_are_read_once() -> Iterator[None]:
    """Let typer read the signature of each function once: commands run in one process here, a thousand times over."""
    import typer.main

    read = functools.cache(vars(typer.main)["get_params_from_function"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_params_from_function", lambda function: dict(read(function)))
        yield


@pytest.fixture
def pipelines_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the files of every pipeline, small or not."""
    copying: Any = load.load_folder
    monkeypatch.setattr(load, "load_folder", copying.load)


@pytest.fixture(autouse=True, scope="module")
def _give_memory_back() -> Iterator[None]:
    """Return freed memory to the system after a file that leaves much, which glibc else keeps for the process."""
    yield
    if sys.platform == "linux" and _resident_bytes() > MUCH_MEMORY:
        _freeze()
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _resident_bytes() -> int:
    """Return the memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def tiny_tokenizer() -> CLIPTokenizer:
    """Return a CLIPTokenizer that spells words letter by letter, at most 16 tokens a caption."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    letters = sorted(ByteLevel.alphabet())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=TINY_TOKENS)


def tiny_text_config(
    tokenizer: CLIPTokenizer, width: int, projected: int, heads: int, hidden_act: str = "quick_gelu"
) -> CLIPTextConfig:
    """Return the configuration of two layers of CLIP for `tokenizer`."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        projection_dim=projected,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=heads,
        max_position_embeddings=TINY_TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_act=hidden_act,
    )


def tiny_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained two-layer CLIPTextModel of width 32 for `tokenizer`."""
    from transformers import CLIPTextModel

    return CLIPTextModel(tiny_text_config(tokenizer, TINY_WIDTH, TINY_WIDTH, heads=4))


def tiny_second_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    """Return an untrained two-layer CLIPTextModelWithProjection of width 24, whose pooled text has width 20."""
    from transformers import CLIPTextModelWithProjection

    config = tiny_text_config(tokenizer, XL_SECOND_WIDTH, XL_POOLED_WIDTH, heads=3, hidden_act="gelu")
    return CLIPTextModelWithProjection(config)


def tiny_xl_unet() -> UNet2DConditionModel:
    """Return an untrained UNet with the 3-1-3 blocks of SDXL, for 8 x 8 latents of 4 channels."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 12, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        cross_attention_dim=TINY_WIDTH + XL_SECOND_WIDTH,
        attention_head_dim=(2, 3, 4),
        transformer_layers_per_block=(1, 1, 2),
        use_linear_projection=True,
        norm_num_groups=4,
        addition_embed_type="text_time",
        addition_time_embed_dim=6,
        projection_class_embeddings_input_dim=XL_POOLED_WIDTH + 6 * 6,
    )


def tiny_autoencoder(**settings: float) -> AutoencoderKL:
    """Return an untrained AutoencoderKL from 32 x 32 images to 8 x 8 latents of 4 channels, with these settings too."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=32,
        **settings,
    )


def tiny_unet() -> UNet2DConditionModel:
    """Return an untrained UNet with the 4-1-4 blocks of Stable Diffusion 1.x, for 8 x 8 latents of 4 channels."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 12, 16, 20),
        layers_per_block=1,
        cross_attention_dim=TINY_WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
    )


def save_tiny_pipeline(folder: Path) -> Path:
    """Write a random Stable Diffusion pipeline of 32 px images, 8 x 8 latents and 4-1-4 blocks, and return `folder`."""
    import torch
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text_encoder, vae, unet = tiny_text_encoder(tokenizer), tiny_autoencoder(), tiny_unet()
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            use_karras_sigmas=True,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random Stable Diffusion pipeline; see `save_tiny_pipeline`."""
    return save_tiny_pipeline(tmp_path_factory.mktemp("tiny_pipeline"))


@pytest.fixture(scope="session")
def tiny_xl_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random SDXL pipeline: 32 px images, 8 x 8 latents, 3-1-3 blocks, two text encoders."""
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second = tiny_text_encoder(tokenizer), tiny_second_text_encoder(tokenizer)
        vae, unet = tiny_autoencoder(), tiny_xl_unet()
    pipeline = StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=first,
        text_encoder_2=second,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
        ),
        add_watermarker=False,
    )
    folder = tmp_path_factory.mktemp("tiny_xl_pipeline")
    pipeline.save_pretrained(folder)
    return folder
