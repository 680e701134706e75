"""Break readers with bytes that reach new code, which atheris finds: `python -m tests.fuzz.guided READER FOLDER ...`.

FOLDER takes what reaches new code; further arguments are those of libFuzzer, such as `-max_total_time=60`.
`python -m tests.fuzz --guided` does this for all readers. It needs the extra `fuzz`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"
LIMITS = ("-timeout=60", "-rss_limit_mb=4000", "-max_len=4096", "-print_final_stats=1", "-verbosity=0")


def main() -> None:
    """Break one reader until an argument says stop."""
    import atheris

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["bwlab", "bwlab_analysis"], enable_loader_override=False):
        from tests.fuzz.readers import READERS
    reader: Callable[[bytes], None] = READERS[name]
    atheris.Setup([*sys.argv, str(CORPUS / name), *LIMITS], reader)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
