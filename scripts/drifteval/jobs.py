"""Runs the trials of many cameras on all cores, and keeps what each gave."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from drifteval import baselines, trials
from drifteval.pool import Pool
from edged.drift.detector import Terms

Found = TypeVar("Found")
FIRST_CAMERA, CAMERAS, SLOW_CAMERAS = 100, 40, 8
"""Cameras below FIRST_CAMERA were looked at while the numbers of the detector were chosen."""

_pool: Pool | None = None
_folder = Path()


def _start(pool: Pool, folder: Path) -> None:
    global _pool, _folder  # one per worker process
    os.nice(10)
    _pool, _folder = pool, folder


def _trial(number: int) -> trials.Found:
    return _kept(f"camera-{number}", trials.run, number)


def _baseline(number: int) -> baselines.Found:
    return _kept(f"baseline-{number}", baselines.run, number)


def _slow(number: int) -> list[trials.Slow]:
    return _kept(f"slow-{number}", trials.run_slow, number)


def _kept(name: str, work: Callable[[Pool, int], Found], number: int) -> Found:
    assert _pool is not None
    path = _folder / f"{name}.pickle"
    if not path.exists():
        path.with_suffix(".part").write_bytes(pickle.dumps(work(_pool, number)))
        path.with_suffix(".part").rename(path)
    kept: Found = pickle.loads(path.read_bytes())
    return kept


def run(
    pool: Pool, cache: Path, cameras: int, workers: int
) -> tuple[list[trials.Found], list[baselines.Found], list[list[trials.Slow]]]:
    """Run all cameras; those that the cache knows, with these terms, are not run again."""
    key = hashlib.sha256(
        repr((Terms(), trials.CLEAN_DAYS, trials.CONTROL_DAYS, pool.keys.shape)).encode()
    ).hexdigest()[:12]
    folder = cache / key
    folder.mkdir(parents=True, exist_ok=True)
    numbers = range(FIRST_CAMERA, FIRST_CAMERA + cameras)
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers, _start, (pool, folder)) as processes:
        found = _told("cameras", processes.imap(_trial, numbers))
        others = _told("baselines", processes.imap(_baseline, numbers[: baselines.CAMERAS]))
        slow = _told("slow cameras", processes.imap(_slow, numbers[:SLOW_CAMERAS]))
    return found, others, slow


def _told(what: str, results: Iterable[Found]) -> list[Found]:
    found = []
    for one in results:
        found.append(one)
        print(f"\r{what} {len(found)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return found
