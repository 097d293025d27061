"""Judges windows, camera by camera, and keeps over restarts what that needs.

In `state_dir/drift`: `<camera>.standing`, and for each subject `<camera>-<digest>.reference`: a
model that comes back finds its own reference again.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path

from edged.drift.commands import Action
from edged.drift.detector import Terms
from edged.drift.keeping import (
    Page,
    digest_of,
    encode_page,
    encode_reference,
    parse_page,
    parse_reference,
)
from edged.drift.reference import Reference, WarmUp
from edged.drift.state import Standing
from edged.drift.watch import Kept, Watch
from edged.drift.window import Subject, Tally, Window
from edged.errors import DriftError, StoreError
from edged.models.files import Files, storing

log = logging.getLogger(__name__)

_DIRECTORY = "drift"
_MOST_REFERENCES = 8


@dataclass(slots=True)
class _Camera:
    """One camera.

    Attributes:
        page: as it is on the disk; None where nothing is.
        subject: who is watched; None before the first window.
        watch: of that subject.
        kept: of the watch as it is on the disk.
        digest: of the reference, in hex.
    """

    page: Page | None
    subject: Subject | None = None
    watch: Watch | None = None
    kept: Kept | None = None
    digest: str = ""


class Keeper:
    """Watches all cameras. One thread at a time.

    Args:
        state_dir: of the device.
        files: the file system.
        cameras: their names.
        terms: of the statistical path.
        warm_up: what makes a reference complete.
    """

    def __init__(
        self,
        state_dir: Path,
        files: Files,
        cameras: tuple[str, ...],
        terms: Terms | None = None,
        warm_up: WarmUp | None = None,
    ) -> None:
        self._directory = state_dir / _DIRECTORY
        self._files = files
        self._terms, self._warm_up = terms or Terms(), warm_up or WarmUp()
        self._cameras = {name: _Camera(self._page(name)) for name in cameras}

    def window(self, window: Window) -> None:
        """Take a window that has ended; those of a model on trial say nothing of the camera."""
        if not window.trial:
            camera = self._camera(window.subject, window.began_ms)
            self._told(camera, camera.watch.window(window) if camera.watch else None)

    def minute(self, subject: Subject, tally: Tally, at_ms: int) -> None:
        """Take what was counted since the last call: the fast path."""
        camera = self._camera(subject, at_ms)
        self._told(camera, camera.watch.minute(tally, at_ms) if camera.watch else None)

    def obey(self, camera: str, action: Action, at_ms: int) -> None:
        """Acknowledge an alarm, or begin a new reference.

        Raises:
            DriftError: `nothing_recorded`: the camera has shown nothing since the start.
            StoreError: it cannot be kept on the disk.
        """
        one = self._cameras[camera]
        if one.watch is None:
            raise DriftError(
                "nothing_recorded",
                f"camera {camera} has shown nothing since edged began.",
                advice="Try again when it does.",
            )
        if action == "acknowledge":
            one.watch.acknowledge(at_ms)
        else:
            one.watch.reset(at_ms)
        self._save(one)

    def standing(self, camera: str) -> dict[str, object]:
        """Return what `drift/<camera>/state` says, as JSON can carry it, without the schema."""
        one = self._cameras[camera]
        watch = one.watch
        if watch is None:
            standing = one.page.standing if one.page is not None else Standing()
            return _said(camera, standing)
        reference, decision, subject = watch.kept.reference, watch.decision, one.subject
        said = _said(camera, watch.standing)
        if subject is not None:
            said |= {
                "model": subject.model,
                "version": subject.version,
                "sha256": subject.sha256,
            }
        said["reference"] = {
            "hours": len(reference.hours),
            "complete": not watch.warming,
            "sha256": one.digest,
        }
        if decision is not None:
            said["n_effective"] = round(decision.n_effective, 1)
            said["scores"] = {
                signal: {key: round(value, 4) for key, value in asdict(score).items()}
                for signal, score in decision.scores.items()
            }
        return said

    def _camera(self, subject: Subject, at_ms: int) -> _Camera:
        camera = self._cameras[subject.camera]
        if camera.subject == subject:
            return camera
        page, digest = camera.page, digest_of(subject)
        reference = self._reference(subject)
        if page is not None and page.subject == digest:
            kept = Kept(reference, page.memory, page.daily, page.standing)
        else:
            # Another model, runtime, accelerator or source: what was said is not about this one.
            complete = reference.complete(self._warm_up)
            kept = Kept(reference, standing=Standing("ok" if complete else "warming", at_ms))
            if page is not None:
                log.warning(
                    "camera %s: drift now looks at %s %s (%s on %s); its reference has %d hours",
                    subject.camera,
                    subject.model,
                    subject.version,
                    subject.runtime,
                    subject.accelerator,
                    len(reference.hours),
                )
        camera.subject, camera.kept = subject, kept
        camera.watch = Watch(subject, self._terms, self._warm_up, kept)
        camera.digest = reference.digest if reference.hours else ""
        return camera

    def _told(self, camera: _Camera, standing: Standing | None) -> None:
        """Say a change of state, and keep what has changed."""
        before = camera.page
        if standing is not None and (before is None or before.standing.state != standing.state):
            level = logging.WARNING if standing.state in {"warn", "drift"} else logging.INFO
            words = "; ".join(reason.detail for reason in standing.reasons)
            name = camera.subject.camera if camera.subject is not None else ""
            log.log(level, "camera %s: drift state %s %s", name, standing.state, words)
        try:
            self._save(camera)
        except StoreError as error:
            log.error("drift: %s (%s)", error.explain(), error.reason)

    def _save(self, camera: _Camera) -> None:
        subject, watch, before = camera.subject, camera.watch, camera.kept
        if subject is None or watch is None:
            return
        kept, digest = watch.kept, digest_of(subject)
        page = camera.page
        listed = () if page is None else page.subjects
        latest = (*(one for one in listed if one != digest), digest)
        keep, gone = latest[-_MOST_REFERENCES:], latest[:-_MOST_REFERENCES]
        fresh = Page(digest, kept.standing, kept.memory, kept.daily, keep)
        with storing(f"cannot keep drift's state in {self._directory}"):
            if before is None or kept.reference is not before.reference:
                self._files.make_dirs(self._directory)
                path = self._path(subject.camera, digest)
                self._files.write_atomic(path, encode_reference(kept.reference))
                camera.digest = kept.reference.digest if kept.reference.hours else ""
            if fresh != page:
                self._files.make_dirs(self._directory)
                path = self._directory / f"{subject.camera}.standing"
                self._files.write_atomic(path, encode_page(fresh))
                for one in gone:
                    self._files.remove_atomic(self._path(subject.camera, one))
        camera.kept, camera.page = kept, fresh

    def _path(self, camera: str, digest: str) -> Path:
        return self._directory / f"{camera}-{digest}.reference"

    def _page(self, camera: str) -> Page | None:
        path = self._directory / f"{camera}.standing"
        try:
            return parse_page(self._files.read(path))
        except FileNotFoundError:
            return None
        except (DriftError, OSError) as error:
            log.error("%s: %s; the camera's drift state begins anew.", path, error)
            return None

    def _reference(self, subject: Subject) -> Reference:
        path = self._path(subject.camera, digest_of(subject))
        try:
            data = self._files.read(path)
            reference, whole = parse_reference(data)
            if not whole or reference.subject not in {None, subject}:
                log.error("%s is damaged: %d hours of it are kept.", path, len(reference.hours))
                self._files.write_atomic(path.with_name(f"{path.name}.damaged"), data)
        except FileNotFoundError:
            return Reference()
        except (DriftError, OSError) as error:
            log.error("%s: %s; the reference begins anew.", path, error)
            return Reference()
        return reference if reference.subject == subject else Reference()


def _said(camera: str, standing: Standing) -> dict[str, object]:
    return {
        "camera": camera,
        "state": standing.state,
        "since": standing.since_ms / 1000,
        "reasons": [asdict(reason) for reason in standing.reasons],
    }
