"""All kinds of cases, and a deterministic choice of some of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tests.faults.code_cases import code_cases
from tests.faults.damage_tables import table_bytes_cases, table_cases
from tests.faults.damage_text import json_cases, yaml_cases
from tests.faults.damage_weights import weight_cases
from tests.faults.input_cases import input_cases
from tests.faults.judge import Case
from tests.faults.link_cases import link_cases
from tests.faults.pairs import pair_cases
from tests.faults.surroundings import surroundings_cases
from tests.faults.system_calls import error_cases, full_disk_cases, kill_cases

__all__ = ["MAKERS", "QUOTAS", "all_cases", "chosen"]

MAKERS: tuple[Callable[[Path], Iterator[Case]], ...] = (
    json_cases,
    yaml_cases,
    table_cases,
    table_bytes_cases,
    weight_cases,
    code_cases,
    link_cases,
    input_cases,
    surroundings_cases,
    kill_cases,
    error_cases,
    full_disk_cases,
    pair_cases,
)

# Cases of each kind that a whole sweep runs.
QUOTAS = {
    "json": 450,
    "yaml": 150,
    "tables": 500,
    "bytes of tables": 150,
    "weights": 120,
    "cache": 110,
    "code": 519,
    "links": 350,
    "inputs": 160,
    "surroundings": 90,
    "kills": 204,
    "errors": 66,
    "full disks": 24,
    "pairs": 32,
}


def all_cases(base: Path) -> dict[str, list[Case]]:
    """Return the cases by kind; their ids differ."""
    found: dict[str, list[Case]] = {}
    seen: set[str] = set()
    for maker in MAKERS:
        for case in maker(base):
            if (case.kind, case.id) not in seen:
                found.setdefault(case.kind, []).append(case)
                seen.add((case.kind, case.id))
    return found


def chosen(cases: Iterable[Case], most: int, seed: int = 0) -> list[Case]:
    """Return a sample that depends on the ids and the seed only: it is the same for all trees."""

    def key(case: Case) -> str:
        return hashlib.blake2b(f"{seed} {case.id}".encode(), digest_size=8).hexdigest()

    return sorted(cases, key=key)[:most]
