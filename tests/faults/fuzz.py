"""Coverage-guided fuzzing of the parsers, with atheris (`pip install atheris`).

    python -m tests.faults.fuzz csv -max_total_time=60

The first word is a parser of tests/faults/parsers.py; further ones are flags of libFuzzer. Inputs
that reach new code are kept in a temporary folder, which is printed; the few that are worth keeping
belong in tests/faults/corpus/PARSER/, whose files test_parsers.py replays.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

__all__ = ["main"]


def main() -> None:
    """Fuzz one parser."""
    import atheris

    name = sys.argv.pop(1)
    with atheris.instrument_imports(include=["foldblend", "folds", "pipeline.config", "ensemble"]):
        from tests.faults import parsers

    folder = parsers.scratch()
    found = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    known = parsers.CORPUS / name
    print(f"inputs are kept in {found}", flush=True)

    def one_input(data: bytes) -> None:
        parsers.parse(name, data, folder)

    try:
        words = [*sys.argv, str(found), *([str(known)] if known.is_dir() else [])]
        atheris.Setup(words, one_input)
        atheris.Fuzz()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
