"""One daemon per state directory."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO

from edged.errors import StoreError

_FILE = "lock"


class StateLock:
    """Holds `state_dir/lock` for as long as the process lives, or until `release`.

    Args:
        state_dir: made when missing.

    Raises:
        StoreError: `already_running`, `state_dir_unusable`.
    """

    def __init__(self, state_dir: Path) -> None:
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = (state_dir / _FILE).open("ab")
        except OSError as error:
            raise StoreError(
                "state_dir_unusable",
                f"cannot use the state directory {state_dir}: {error.strerror}.",
                advice="Set state_dir to a directory that this user may write to.",
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise StoreError(
                "already_running",
                f"another edged runs with the state directory {state_dir}.",
                advice="Stop that one, or give this one a state_dir of its own.",
            ) from error

    def release(self) -> None:
        """Let another process have it."""
        self._file.close()


def is_locked(state_dir: Path) -> bool:
    """Say whether a daemon runs with this state directory."""
    try:
        with (state_dir / _FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False  # no file, or none of ours: nobody runs
    return False
