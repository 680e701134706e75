"""CPU seconds and memory of the weight-space analysis on two large files: `python -m benchmarks.weights [sdxl|flux]`.

Two LoCon files of SDXL and its text encoders, rank 64, half precision, or two LoRA files of FLUX.1's 57 blocks in
kohya's keys, rank 16, single precision, are made of random numbers once. Each case runs
in a process of its own, on one thread, from its start to its end; the cases take turns. `plain` is the yardstick: what
loading both files and forming the Gram matrices costs that every number of `conflict` comes from.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np

RANK = 64
UP, DOWN = "lora_up.weight", "lora_down.weight"
TURNS = 5


def write_locon(path: Path, seed: int, rank: int = RANK) -> None:
    """Write a LoCon file of SDXL's UNet and text encoders with random factors in half precision."""
    from safetensors.numpy import save_file

    from bwlab.blocks.configs import SDXL, layer_shapes, meta_unet
    from bwlab.formats.keys import kohya_name_of

    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    unet = {module: shape for module, (_, shape) in layer_shapes(meta_unet(SDXL)).items()}
    for module, shape in {**unet, **text_shapes("te", 768, 12), **text_shapes("te2", 1280, 32)}.items():
        name = kohya_name_of(module, True)
        down = rng.standard_normal((rank, *shape[1:]), dtype=np.float32)
        up = 0.01 * rng.standard_normal((shape[0], rank, *(1 for _ in shape[2:])), dtype=np.float32)
        tensors[f"{name}.{DOWN}"] = down.astype(np.float16)
        tensors[f"{name}.{UP}"] = up.astype(np.float16)
        tensors[f"{name}.alpha"] = np.array(rank, np.float32)
    save_file(tensors, path)


def write_flux(path: Path, seed: int, rank: int = 16) -> None:
    """Write a LoRA file of FLUX.1's 19 double and 38 single blocks, as sd-scripts does, with modulation."""
    from safetensors.numpy import save_file

    rng = np.random.default_rng(seed)
    layers = {
        f"double_blocks_{index}_{stream}_{name}": shape
        for index in range(19)
        for stream in ("img", "txt")
        for name, shape in (
            ("attn_qkv", (9216, 3072)),
            ("attn_proj", (3072, 3072)),
            ("mlp_0", (12288, 3072)),
            ("mlp_2", (3072, 12288)),
            ("mod_lin", (18432, 3072)),
        )
    }
    single = {"linear1": (21504, 3072), "linear2": (3072, 15360), "modulation_lin": (9216, 3072)}
    layers |= {f"single_blocks_{index}_{name}": shape for index in range(38) for name, shape in single.items()}
    tensors: dict[str, np.ndarray] = {}
    for name, (out, inner) in layers.items():
        tensors[f"lora_unet_{name}.{DOWN}"] = rng.standard_normal((rank, inner), dtype=np.float32)
        tensors[f"lora_unet_{name}.{UP}"] = 0.01 * rng.standard_normal((out, rank), dtype=np.float32)
        tensors[f"lora_unet_{name}.alpha"] = np.array(rank, np.float32)
    save_file(tensors, path)


def text_shapes(encoder: str, width: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Return the weights' shapes of a CLIP text encoder's layers by adapter path."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer in range(layers):
        root = f"{encoder}.encoder.layers.{layer}"
        shapes |= {f"{root}.self_attn.{name}_proj": (width, width) for name in ("q", "k", "v", "out")}
        shapes |= {f"{root}.mlp.fc1": (4 * width, width), f"{root}.mlp.fc2": (width, 4 * width)}
    return shapes


def read(a: Path, b: Path) -> None:
    """Load both files and touch every number: the floor."""
    from bwlab.formats.safetensors import open_adapter_file

    for path in (a, b):
        file = open_adapter_file(path)
        for key in file.entries:
            file.read(key).reshape(-1).view("u1").max()


def inspect(a: Path, b: Path) -> None:
    """Run `bwlab inspect A --json` on the first file."""
    _bwlab("inspect", str(a), "--json")


def norms(a: Path, b: Path) -> None:
    """Compute the norms of both files, per block, cell and kind."""
    from bwlab_analysis.weights.norms import measure_norms

    for path in (a, b):
        measure_norms(path, [])


def plain(a: Path, b: Path) -> None:
    """Load both files and form the six Gram matrices of each module in float64, in the straightforward way."""
    from safetensors.numpy import load_file

    files = [load_file(path) for path in (a, b)]
    for key in (key for key in files[0] if key.endswith(UP)):
        ups, downs = ([_wide(file[name]) for file in files] for name in (key, key.removesuffix(UP) + DOWN))
        (up_a, up_b), (down_a, down_b) = ups, downs
        _ = up_a.T @ up_a, up_b.T @ up_b, up_a.T @ up_b
        _ = down_a @ down_a.T, down_b @ down_b.T, down_a @ down_b.T


def _wide(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1).astype(np.float64)


def conflict(a: Path, b: Path) -> None:
    """Run `bwlab analyze conflict A B --json`: norms, cosine, overlaps, smallest angle, per block, cell and in all."""
    _bwlab("analyze", "conflict", str(a), str(b), "--json")


def _bwlab(*arguments: str) -> None:
    from bwlab.cli.app import main as bwlab

    sys.argv = ["bwlab", *arguments]
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.suppress(SystemExit):
        bwlab()


def spectra(a: Path, b: Path) -> None:
    """Compute the singular values of both files, beside their norms."""
    from bwlab_analysis.weights.norms import EFFECTIVE_RANK, TOP1_SHARE, measure_norms

    for path in (a, b):
        measure_norms(path, [EFFECTIVE_RANK, TOP1_SHARE])


RUNS: dict[str, Callable[[Path, Path], None]] = {
    "read": read,
    "inspect": inspect,
    "norms": norms,
    "spectra": spectra,
    "plain": plain,
    "conflict": conflict,
}


def measure(case: str, a: Path, b: Path) -> dict[str, float]:
    """Return CPU seconds from the process' start and its peak memory in MiB (Linux)."""
    RUNS[case](a, b)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    # getrusage would still include the process from which this one was forked.
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {"cpu": time.process_time(), "peak": peak / 1024}


def run_case(case: str, files: tuple[Path, Path]) -> dict[str, float]:
    """Return what `measure` finds in a process of its own, on one thread."""
    threads = {
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    command = [sys.executable, "-m", "benchmarks.weights", case, *map(str, files)]
    # As for users, with the bytecode that the first turn leaves behind.
    own = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, env=own | threads, capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


FILES: dict[str, tuple[str, Callable[[Path, int], None]]] = {
    "sdxl": (f"SDXL LoCon files of rank {RANK}", write_locon),
    "flux": ("FLUX.1 LoRA files of rank 16", write_flux),
}


def main(kind: str = "sdxl", folder: Path | None = None) -> None:
    """Make the files, run the cases in turn, print the table and the ratio of conflict to plain."""
    from rich.console import Console
    from rich.table import Table

    label, write = FILES[kind]
    folder = folder if folder is not None else Path(tempfile.gettempdir()) / f"bwlab-weights-{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    files = folder / "a.safetensors", folder / "b.safetensors"
    for seed, path in enumerate(files):
        if not path.is_file():
            write(path, seed)
    # The cases take turns, A B A B ..., so that a busy machine slows all alike.
    turns = [{case: run_case(case, files) for case in RUNS} for _ in range(TURNS)]
    size = files[0].stat().st_size / 2**20
    title = f"two {label}, {size:.0f} MiB each, median of {TURNS}"
    table = Table("case", "CPU s", "of plain", "peak MiB", title=title)
    for case in RUNS:
        seconds, share, peak = (
            median(values)
            for values in (
                [turn[case]["cpu"] for turn in turns],
                [turn[case]["cpu"] / turn["plain"]["cpu"] for turn in turns],
                [turn[case]["peak"] for turn in turns],
            )
        )
        table.add_row(case, f"{seconds:.2f}", f"{share:.2f}", f"{peak:.0f}")
    Console().print(table)


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in RUNS:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))))  # noqa: T201 - read by run_case
    elif any(argument.startswith("-") for argument in sys.argv[1:]) or len(sys.argv) > 3:
        sys.exit("usage: python -m benchmarks.weights [sdxl|flux] [FOLDER]")
    else:
        kinds = [argument for argument in sys.argv[1:2] if argument in FILES]
        folders = sys.argv[1 + len(kinds) :]
        main(kinds[0] if kinds else "sdxl", Path(folders[0]) if folders else None)
