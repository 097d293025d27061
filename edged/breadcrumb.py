"""What the last run left behind: why it stopped, and which model it was in when it did.

`run.json` in the runtime directory, which is kept over restarts of the service, and where it is
RAM not over a reboot: written at the start, completed at a clean stop. What is found there at the
next start tells a clean stop from a crash, and its absence, or another kernel's boot id in it, a
fresh boot. `breadcrumb` beside it is mapped into memory: the digest of the model that is being
loaded, and of the one being invoked.
"""

from __future__ import annotations

import mmap
import os
import re
from pathlib import Path

import orjson

from edged.lock import unusable_runtime_dir

CLEAN_STOPS = {"sigterm", "sigint"}
FRESH_BOOT = "first_start_since_boot"
_FILE, _CRUMB_FILE = "run.json", "breadcrumb"
_DIGEST_BYTES = 64
_NOTHING = b" " * _DIGEST_BYTES


class RunRecord:
    """The record of one run.

    Args:
        runtime_dir: e.g. /run/edged; made when missing.
        boot_id: of the kernel, "" where it is not known.

    Raises:
        StoreError: `runtime_dir_unusable`.
    """

    def __init__(self, runtime_dir: Path, boot_id: str = "") -> None:
        self._path = runtime_dir / _FILE
        self._boot_id = boot_id
        try:
            runtime_dir.mkdir(parents=True, exist_ok=True)
            self.last_stop = self._read()
            self._write({"state": "running", "pid": os.getpid(), "boot_id": boot_id})
        except OSError as error:
            raise unusable_runtime_dir(runtime_dir, error) from error

    def stopped(self, cause: str) -> None:
        """Note an end that was no crash: `sigterm`, or the reason for which the start failed."""
        try:
            self._write({"state": "stopped", "cause": cause})
        except OSError:
            return  # the next start calls this a crash: the safe mistake

    def _read(self) -> str:
        try:
            record = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return FRESH_BOOT
        except orjson.JSONDecodeError:
            return "crash"
        if isinstance(record, dict) and record.get("state") == "stopped":
            return str(record.get("cause", "unknown"))
        before = record.get("boot_id") if isinstance(record, dict) else None
        return FRESH_BOOT if before and before != self._boot_id else "crash"

    def _write(self, record: dict[str, object]) -> None:
        temporary = self._path.with_suffix(".tmp")
        temporary.write_bytes(orjson.dumps(record))
        temporary.replace(self._path)


class Breadcrumb:
    """Which model is loaded or invoked at this moment, for the start after a crash.

    Two places, as loading and invoking are done by different threads. A store takes less than a
    microsecond, and outlives the process, not the kernel.

    Attributes:
        blamed_sha256: what the last run was in when it ended; None for nothing. A model that is
            loaded is suspected before one that is invoked, which has been loaded already.

    Args:
        runtime_dir: there.

    Raises:
        StoreError: `runtime_dir_unusable`.
    """

    def __init__(self, runtime_dir: Path) -> None:
        try:
            descriptor = os.open(runtime_dir / _CRUMB_FILE, os.O_RDWR | os.O_CREAT, 0o640)
            try:
                os.ftruncate(descriptor, 2 * _DIGEST_BYTES)
                self._map = mmap.mmap(descriptor, 2 * _DIGEST_BYTES)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise unusable_runtime_dir(runtime_dir, error) from error
        left = (self._map[:_DIGEST_BYTES], self._map[_DIGEST_BYTES:])
        found = [crumb.decode() for crumb in left if re.fullmatch(rb"[0-9a-f]{64}", crumb)]
        self.blamed_sha256 = found[0] if found else None
        self._map[:] = 2 * _NOTHING

    def loading(self, sha256: str) -> None:
        """Note what is being loaded; "" for nothing any more."""
        self._map[:_DIGEST_BYTES] = sha256.encode().ljust(_DIGEST_BYTES)

    def invoking(self, sha256: str) -> None:
        """Note what is being invoked; "" for nothing any more. Inference thread only."""
        self._map[_DIGEST_BYTES:] = sha256.encode().ljust(_DIGEST_BYTES)
