"""Measure the weights of adapters that people trained: `python -m benchmarks.real_files FOLDER`.

Every pair of files that change at least one module in common is compared, as `bwlab analyze conflict --signs` does. The
tables of `docs/real-adapters.md` are what this prints of the folder `shared/loras`.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from pathlib import Path

import numpy as np

from bwlab.errors import BwlabError
from bwlab_analysis.measures import Measured
from bwlab_analysis.report.numbers import decimals_for
from bwlab_analysis.report.verdict import shares_initialisation
from bwlab_analysis.weights.conflict import measure_conflict
from bwlab_analysis.weights.pair_measures import COSINE, IN_OVERLAP, OUT_OVERLAP, SIGN_CONFLICT

MEASURES = (COSINE, SIGN_CONFLICT, IN_OVERLAP, OUT_OVERLAP)
SMALL_RANKS = 0.02  # of the widths: there is room for fifty times what chance shares
SUFFIXES = (".safetensors", ".pt", ".bin")


@dataclass(frozen=True)
class RealPair:
    """Two files: their names, the modules that both change, and the measures over all of these."""

    a: str
    b: str
    shared: int
    cosine: Measured
    signs: Measured
    in_overlap: Measured
    out_overlap: Measured
    one_seed: bool


def adapter_files(folder: Path) -> list[Path]:
    """Return the adapter files of a folder by name; BwlabError if there are fewer than two."""
    files = sorted(path for path in folder.glob("*") if path.suffix in SUFFIXES)
    if len(files) < 2:
        raise BwlabError(f"adapters in {folder}", f"{len(files)} file", "Give a folder with two or more")
    return files


def as_safetensors(file: Path, folder: Path) -> Path:
    """Return the file, or where it is a pickle a copy of its tensors, read without running code, with kohya's keys."""
    if file.suffix == ".safetensors":
        return file
    from safetensors.numpy import save_file

    from bwlab.formats.keys import kohya_name_of
    from bwlab.formats.read import read_contents

    tensors: dict[str, np.ndarray] = {}
    for path, module in read_contents(file, pickles=True).modules.items():
        tensors |= {f"{kohya_name_of(path)}.{leaf}": tensor.read() for leaf, tensor in module.leaves.items()}
        if module.alpha is not None:
            tensors[f"{kohya_name_of(path)}.alpha"] = np.array(module.alpha)
    copy = folder / f"{file.name}.safetensors"
    save_file({key: np.array(values, order="C") for key, values in tensors.items()}, copy)
    return copy


def real_pairs(folder: Path, every: int = 1) -> Iterator[RealPair]:
    """Yield all pairs, or one pair of `every`, of a folder's adapters that are for one model and share a module."""
    with tempfile.TemporaryDirectory() as made:
        files = {file: as_safetensors(file, Path(made)) for file in adapter_files(folder)}
        for a, b in islice(combinations(files, 2), 0, None, every):
            try:
                report = measure_conflict(files[a], files[b], MEASURES)
            except BwlabError as error:
                if "comparing" not in error.asked:
                    raise
                continue
            cosine, signs, into, out = (report.total.measures[measure.name] for measure in MEASURES)
            if cosine is not None and signs is not None and into is not None and out is not None:
                one_seed = shares_initialisation(report.total)
                yield RealPair(_called(a), _called(b), report.total.shared, cosine, signs, into, out, one_seed)


def _called(file: Path) -> str:
    return file.name.removesuffix(".safetensors")


def summary(pairs: Sequence[RealPair]) -> list[str]:
    """Return the lines of a Markdown table of medians and extremes."""
    small = [pair for pair in pairs if pair.out_overlap.details["chance"] < SMALL_RANKS] or pairs
    rows: list[tuple[str, Iterable[float], str, Callable[[float], str]]] = [
        (
            "\\|cosine\\|",
            [abs(pair.cosine.value) for pair in pairs],
            f"0 +- {_median(pair.cosine.random_sd or 0.0 for pair in pairs):.2g} (median sd)",
            lambda value: f"{value:.2g}",
        ),
        (
            "sign conflict",
            [pair.signs.value for pair in pairs],
            f"0.5 +- {_median(pair.signs.random_sd or 0.0 for pair in pairs):.1g}",
            lambda value: f"{value:.4f}",
        ),
        ("in overlap, of chance", [pair.in_overlap.value for pair in pairs], "x1", lambda value: f"x{value:.2f}"),
        ("out overlap, of chance", [pair.out_overlap.value for pair in pairs], "x1", lambda value: f"x{value:.2f}"),
        (
            f"the same, both of small rank ({len(small)} pairs)",
            [pair.out_overlap.value for pair in small],
            "x1",
            lambda value: f"x{value:.2f}",
        ),
    ]
    lines = ["| of the pairs | least | median | greatest | random pair |", "|---|---|---|---|---|"]
    for name, values, random, text in rows:
        numbers = sorted(values)
        shown = [text(value) for value in (numbers[0], _median(numbers), numbers[-1])]
        lines.append(f"| {name} | {' | '.join(shown)} | {random} |")
    return lines


def tables(pairs: Sequence[RealPair]) -> list[str]:
    """Return the lines of both tables."""
    one_seed = sum(pair.one_seed for pair in pairs)
    head = f"{len(pairs)} pairs with modules in common; {one_seed} of them share an initialisation."
    return [head, "", *summary(pairs), "", *pair_table(pairs)]


def _median(values: Iterable[float]) -> float:
    return statistics.median(list(values))


def pair_table(pairs: Sequence[RealPair]) -> list[str]:
    """Return the lines of a Markdown table of all pairs, the greatest out overlap first."""
    lines = [
        "| a, b | modules | cosine (random pair) | sign conflict | in overlap | one seed | out overlap (random pair) |",
        "|---|---|---|---|---|---|---|",
    ]
    for pair in sorted(pairs, key=lambda pair: -pair.out_overlap.value):
        spread = pair.cosine.random_sd or 0.0
        digits = decimals_for(spread)
        given = pair.cosine.details["random_sd_given_inputs"]
        cosine = f"{pair.cosine.value:.{digits}f} (0 +- {given if pair.one_seed else spread:.{digits}f})"
        out = f"x{pair.out_overlap.value:.2f} (1 +- {pair.out_overlap.random_sd or 0.0:.2f})"
        into = f"{pair.in_overlap.details['fraction']:.2f}, x{pair.in_overlap.value:.3g}"
        cells = (f"{pair.a}, {pair.b}", str(pair.shared), cosine, f"{pair.signs.value:.4f}", into)
        lines.append(f"| {' | '.join(cells)} | {'yes' if pair.one_seed else ''} | {out} |")
    return lines


def main(folder: Path) -> None:
    """Print both tables."""
    sys.stdout.write("\n".join(tables(list(real_pairs(folder)))) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
