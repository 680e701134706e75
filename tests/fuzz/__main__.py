"""Break files at random and check what bwlab does with them: `python -m tests.fuzz --minutes 30`.

Each broken file is drawn from one number, so `--seed N --files 1` makes it again. Files that break a promise are kept
in `--out`, each beside a text with the command and the reason; the exit code is then 1.

`--guided all` has atheris search for bytes that reach new code of the readers of `tests.fuzz.readers`, or of one of
them, and break it. It needs the extra `fuzz`.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from bwlab.terminal import counted, echo
from tests.fuzz.guided import CORPUS
from tests.fuzz.targets import Bench, Target


@dataclass(frozen=True)
class Plan:
    """How much to do; see the options of the command."""

    seed: int
    files: int | None
    minutes: float | None
    kind: str | None
    commands: int | None
    out: Path


def main() -> None:
    """Run the fuzzer and print a line for each kind of broken promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=None, help="time after which to stop")
    parser.add_argument("--files", type=int, default=None, help="number of files after which to stop (2,000)")
    parser.add_argument("--seed", type=int, default=0, help="number of the first file")
    parser.add_argument("--kind", default=None, help="kind of input, such as adapter; all in turn by default")
    parser.add_argument("--commands", type=int, default=None, help="number of commands for each file; all by default")
    parser.add_argument("--out", type=Path, default=Path("fuzz-findings"), help="folder for files that break a promise")
    parser.add_argument("--guided", choices=["all", *names()], default=None, help="break readers with atheris instead")
    options = vars(parser.parse_args())
    reader = options.pop("guided")
    plan = Plan(**options)
    if reader:
        sys.exit(1 if guided(names() if reader == "all" else [reader], plan) else 0)
    sys.exit(1 if fuzz(plan) else 0)


def names() -> list[str]:
    """Return the names of the readers."""
    return sorted(path.name for path in CORPUS.iterdir())


def guided(readers: Sequence[str], plan: Plan) -> int:
    """Break each reader in a process of its own, for an equal part of the minutes, and return how many broke."""
    if importlib.util.find_spec("atheris") is None:
        raise SystemExit("--guided needs atheris: pip install atheris")
    seconds = round((plan.minutes or 5) * 60 / len(readers))
    broken = 0
    for name in readers:
        grown = plan.out / "reached" / name
        grown.mkdir(parents=True, exist_ok=True)
        words = [name, str(grown), f"-max_total_time={seconds}", f"-seed={plan.seed + 1}"]
        echo(f"{name}: {seconds} s")
        command = [sys.executable, "-m", "tests.fuzz.guided", *words, f"-artifact_prefix={plan.out}/{name}-"]
        broken += subprocess.run(command, check=False).returncode != 0
    return broken


def fuzz(plan: Plan) -> Counter[str]:
    """Return how often each kind of promise was broken."""
    found: Counter[str] = Counter()
    start = time.monotonic()
    done = runs = 0
    most = plan.files or (2000 if plan.minutes is None else sys.maxsize)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        targets = [bench.targets[plan.kind]] if plan.kind else list(bench.targets.values())
        while done < most and (plan.minutes is None or time.monotonic() - start < plan.minutes * 60):
            number = plan.seed + done
            random = Random(number)
            target = targets[number % len(targets)]
            content = target.broken(random)
            commands = random.sample(target.commands, min(plan.commands or sys.maxsize, len(target.commands)))
            for command, error in bench.run(target, content, commands):
                found[error.kind] += 1
                if found[error.kind] == 1:
                    _keep(plan.out / f"{number}-{target.name}", target, content, f"{command}\n{error}\n")
            done += 1
            runs += len(commands)
    echo(f"{counted(done, 'file')}, {counted(runs, 'command')}, {time.monotonic() - start:.0f} s")
    for broken, count in found.most_common():
        echo(f"{count:6} {broken}")
    return found


def _keep(folder: Path, target: Target, content: bytes, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / Path(target.file).name).write_bytes(content)
    (folder / "finding.txt").write_text(text, errors="backslashreplace")
    echo(f"{folder}: {text.splitlines()[1]}")


if __name__ == "__main__":
    main()
