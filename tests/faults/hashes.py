"""Put the hash of a damaged file where the undamaged one's is recorded.

Otherwise no check behind the comparison of hashes would be reached. Who may write a run folder can
do the same.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foldblend.runs.folder import file_hash

__all__ = ["with_hash"]


def with_hash(file: str, prepare: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return a preparation of the stage after which the records of its run have the new hash.

    `file` is the path of a file in a run folder, such as outputs/RUN/oof.parquet.
    """

    def prepare_all(stage: Path) -> None:
        before = file_hash(stage / file)
        prepare(stage)
        if not (stage / file).is_file():
            return
        after = file_hash(stage / file)
        for record in (stage / "outputs" / Path(file).parts[1]).rglob("*.json"):
            text = record.read_text()
            if before in text:
                record.write_text(text.replace(before, after))

    return prepare_all
