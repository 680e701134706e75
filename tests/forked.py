"""Processes that are forked from one that has imported what a training needs, which takes most of a short run's time.

Use them where a test needs a process of its own to kill, or two at once; a test of what a command imports, or of a
launcher, has to start Python.
"""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from importlib import import_module
from multiprocessing.process import BaseProcess
from pathlib import Path

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.training.imported"])


def run_command(module: str, *arguments: str, said: Path) -> tuple[int | None, str]:
    """Run the `main` of a module with these arguments in a process; return its exit code and what it prints.

    Args:
        module: name of the module, which is imported there.
        arguments: what follows its name on the command line.
        said: a file for what it prints.

    """
    process = PROCESSES.Process(target=_run, args=(module, arguments, said))
    process.start()
    return ending(process, said)


def ending(process: BaseProcess, said: Path, seconds: float = 900) -> tuple[int | None, str]:
    """Wait for a process, which is killed if it takes longer, and return its exit code and what `said` holds then."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    return process.exitcode, said.read_text(encoding="utf-8")


def _run(module: str, arguments: tuple[str, ...], said: Path) -> None:
    sys.argv = [module, *arguments]
    sys.stdout = sys.stderr = said.open("w", encoding="utf-8")  # left open for the traceback of an error
    main: Callable[[], int] = import_module(module).main
    sys.exit(main())
