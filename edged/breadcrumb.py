"""What the last run left behind: why it stopped.

`run.json` in the runtime directory, which is RAM and kept over restarts of the service but not
over a reboot: written at the start, completed at a clean stop. What is found there at the next
start tells a clean stop from a crash, and its absence a fresh boot.
"""

from __future__ import annotations

import os
from pathlib import Path

import orjson

from edged.lock import unusable_runtime_dir

_FILE = "run.json"


class RunRecord:
    """The record of one run.

    Args:
        runtime_dir: e.g. /run/edged; made when missing.

    Raises:
        StoreError: `runtime_dir_unusable`.
    """

    def __init__(self, runtime_dir: Path) -> None:
        self._path = runtime_dir / _FILE
        try:
            runtime_dir.mkdir(parents=True, exist_ok=True)
            self.last_stop = self._read()
            self._write({"state": "running", "pid": os.getpid()})
        except OSError as error:
            raise unusable_runtime_dir(runtime_dir, error) from error

    def stopped(self, cause: str) -> None:
        """Note a clean stop; `cause` is e.g. `sigterm`."""
        try:
            self._write({"state": "stopped", "cause": cause})
        except OSError:
            return  # the next start calls this a crash: the safe mistake

    def _read(self) -> str:
        try:
            record = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return "first_start_since_boot"
        except orjson.JSONDecodeError:
            return "crash"
        if isinstance(record, dict) and record.get("state") == "stopped":
            return str(record.get("cause", "unknown"))
        return "crash"

    def _write(self, record: dict[str, object]) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_bytes(orjson.dumps(record))
        temporary.replace(self._path)
