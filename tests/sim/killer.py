"""Kills a process right before one of its system calls that change files: see killer.c."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.delegate import CompilerMissingError, compile_library

SOURCE = Path(__file__).with_name("killer.c")


class Killer:
    """Compiled once, it makes environments.

    Args:
        library: where it is.
    """

    def __init__(self, library: Path) -> None:
        self._library = library

    def environment(self, number: int, below: Path, log: Path) -> dict[str, str]:
        """Return what has a process killed.

        Args:
            number: of the call, from 1, over all threads.
            below: only changes of files below it count.
            log: gets a line that says which call that was.
        """
        return {
            "LD_PRELOAD": str(self._library),
            "EDGED_TEST_KILL_AT": str(number),
            "EDGED_TEST_KILL_BELOW": f"{below}/",
            "EDGED_TEST_KILL_LOG": str(log),
        }


def killer_or_skip(directory: Path) -> Killer:
    """Compile it; skip the test, saying why, where there is no compiler."""
    try:
        return Killer(compile_library(SOURCE, directory / "libedged_test_killer.so"))
    except CompilerMissingError as error:
        pytest.skip(str(error))
