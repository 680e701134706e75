"""Processes that are forked from one that has imported what a training needs, which takes most of a short run's time.

Use them where a test needs a process of its own to kill, or two at once; a test of what a command imports, or of a
launcher, has to start Python.
"""

from __future__ import annotations

import multiprocessing

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.training.imported"])
