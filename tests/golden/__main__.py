"""Make the golden set again, and say what has changed: `python -m tests.golden`.

It writes the files and `results.json`, which `tests/golden/test_golden.py` compares with what the commands give. Look
at every change that is named: each is a number that users see.
"""

from __future__ import annotations

import json

from tests.golden import files
from tests.golden.results import RESULTS, changes, measured


def main() -> None:
    """Write the files and the results, and print the changes."""
    files.write()
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    found = measured(files.FOLDER)
    RESULTS.write_text(files.ordered(found))
    lines = list(changes(kept, found))
    print(*(lines or ["Nothing has changed."]), sep="\n")  # noqa: T201


if __name__ == "__main__":
    main()
