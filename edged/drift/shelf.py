"""What drift remembers of cameras, on the disk: beside the windows, in `state_dir/drift`.

`<camera>.standing` is a camera's page, `<camera>-<digest>.reference` the hours that one subject on
it is judged by. What is damaged is set aside before anything is written in its place, and what the
disk does not give now is an error and never taken for nothing.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from edged.drift.keeping import (
    Page,
    digest_of,
    encode_page,
    encode_reference,
    parse_page,
    parse_reference,
)
from edged.drift.reference import Reference
from edged.drift.ring import DIRECTORY
from edged.errors import DriftError, Trouble
from edged.models.files import Files, storing, twice

log = logging.getLogger(__name__)

MOST_REFERENCES = 8
"""Of each camera; the one whose subject came first goes."""


class Shelf:
    """Pages and references. One thread at a time.

    Args:
        state_dir: of the device.
        files: the file system.

    Attributes:
        damage: that was found last; None for none.
    """

    def __init__(self, state_dir: Path, files: Files) -> None:
        self._directory = state_dir / DIRECTORY
        self._files = files
        self.damage: Trouble | None = None

    def page(self, camera: str) -> Page | None:
        """Return what is known of a camera; None where nothing is.

        Raises:
            StoreError: the disk's own.
        """
        path = self._page_path(camera)
        data = self._read(path)
        if data is None:
            return None
        try:
            return parse_page(data)
        except DriftError as error:
            self._found(f"{path}: {error}; the camera's drift state begins anew.")
            with storing(f"cannot set {path} aside"):
                self._files.rename(path, _aside(path))
                self._files.fsync_dir(self._directory)
            return None

    def reference(self, camera: str, digest: str) -> Reference:
        """Return the hours of a subject that can be read; none where there are none.

        Raises:
            StoreError: the disk's own.
        """
        path = self._reference_path(camera, digest)
        data = self._read(path)
        if data is None:
            return Reference()
        reference, whole = _hours(data, digest)
        if not whole:
            self._found(f"{path} is damaged: {len(reference.hours)} hours of it are kept.")
            with storing(f"cannot set {path} aside"):
                self._files.write_atomic(_aside(path), data)
                self._files.write_atomic(path, encode_reference(reference))
        return reference

    def read(self, camera: str, digest: str) -> Reference:
        """Return the hours of a subject that can be read; nothing is changed.

        Raises:
            StoreError: the disk's own.
        """
        data = self._read(self._reference_path(camera, digest))
        return Reference() if data is None else _hours(data, digest)[0]

    def put_reference(self, camera: str, digest: str, reference: Reference) -> None:
        """Keep a subject's hours; on return they are safe.

        Raises:
            StoreError: the old ones are there as before, or the new ones are.
        """
        with storing(f"cannot keep drift's reference in {self._directory}"):
            self._files.make_dirs(self._directory)
            self._files.write_atomic(
                self._reference_path(camera, digest), encode_reference(reference)
            )

    def put_page(self, camera: str, page: Page) -> None:
        """Keep what is known of a camera; on return it is safe.

        Raises:
            StoreError: the old page is there as before, or the new one is.
        """
        with storing(f"cannot keep drift's state in {self._directory}"):
            self._files.make_dirs(self._directory)
            self._files.write_atomic(self._page_path(camera), encode_page(page))

    def digests(self, camera: str) -> tuple[str, ...]:
        """Return the digests of all subjects of a camera that have a reference.

        Raises:
            StoreError: the disk's own.
        """
        name = re.compile(re.escape(camera) + r"-([0-9a-f]{12})\.reference")
        with storing(f"cannot read {self._directory}"):
            self._files.make_dirs(self._directory)
            names = self._files.names(self._directory)
        return tuple(found[1] for one in names if (found := name.fullmatch(one)))

    def remove_reference(self, camera: str, digest: str) -> None:
        """Remove a subject's hours, and what of them was set aside.

        Raises:
            StoreError: the disk's own.
        """
        path = self._reference_path(camera, digest)
        with storing(f"cannot remove {path}"):
            self._files.remove_tree(_aside(path))
            self._files.remove_atomic(path)

    def _found(self, words: str) -> None:
        log.error(words)
        self.damage = Trouble("drift_state_damaged", words)

    def _page_path(self, camera: str) -> Path:
        return self._directory / f"{camera}.standing"

    def _reference_path(self, camera: str, digest: str) -> Path:
        return self._directory / f"{camera}-{digest}.reference"

    def _read(self, path: Path) -> bytes | None:
        with storing(f"cannot read {path}"):
            try:
                return twice(lambda: self._files.read(path))
            except FileNotFoundError:
                return None


def _hours(data: bytes, digest: str) -> tuple[Reference, bool]:
    """Return the hours that can be read and are of the subject, and whether those are all."""
    try:
        reference, whole = parse_reference(data)
    except DriftError:  # of several subjects
        return Reference(), False
    subject = reference.subject
    if subject is not None and digest_of(subject) != digest:
        return Reference(), False
    return reference, whole


def _aside(path: Path) -> Path:
    return path.with_name(f"{path.name}.damaged")
