"""One daemon per state directory, and per runtime directory."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path
from typing import IO

from edged.errors import StoreError

_FILE = "lock"
# Whoever may enter may connect to the control socket, as its own mode allows: user and group.
_RUNTIME_MODE = 0o750


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


class RuntimeLock:
    """Holds the runtime directory itself, as `StateLock` does its file.

    What is found in a directory that this holds was left by a dead daemon.

    Args:
        runtime_dir: made when missing, for user and group only.

    Attributes:
        directory: the same.
        descriptor: of the directory.

    Raises:
        StoreError: `runtime_dir_taken`, `runtime_dir_unsafe`, `runtime_dir_unusable`.
    """

    def __init__(self, runtime_dir: Path) -> None:
        self.directory = runtime_dir
        try:
            runtime_dir.mkdir(_RUNTIME_MODE, parents=True, exist_ok=True)
            self.descriptor = os.open(runtime_dir, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise unusable_runtime_dir(runtime_dir, error) from error
        try:
            self._check_mode()
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self.release()
            raise StoreError(
                "runtime_dir_taken",
                f"another edged runs with the runtime directory {runtime_dir}.",
                advice="Stop that one, or give this one a runtime_dir of its own.",
            ) from error
        except StoreError:
            self.release()
            raise

    def _check_mode(self) -> None:
        mode = os.fstat(self.descriptor).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise StoreError(
                "runtime_dir_unsafe",
                f"anybody may replace files in the runtime directory {self.directory}.",
                advice=f"Take that right away: chmod o-w {self.directory}.",
            )

    def release(self) -> None:
        """Let another process have it."""
        os.close(self.descriptor)


def unusable_runtime_dir(runtime_dir: Path, error: OSError) -> StoreError:
    """Return what to say when the runtime directory, or a file in it, cannot be used."""
    return StoreError(
        "runtime_dir_unusable",
        f"cannot use the runtime directory {runtime_dir}: {error.strerror or error}.",
        advice="Set runtime_dir to a directory that this user may write to.",
    )


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
