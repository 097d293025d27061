"""Judges windows, camera by camera, and keeps over restarts what that needs.

A model that comes back finds its own reference again. A disk that is full or fails stops no
judging of what has been read, only what a restart would find; what cannot be read now is not
written over, unless a person asks for a new reference.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from edged.drift.commands import Action
from edged.drift.detector import Terms
from edged.drift.keeping import Page, digest_of
from edged.drift.recorder import Minute
from edged.drift.reference import WarmUp
from edged.drift.shelf import MOST_REFERENCES, Shelf
from edged.drift.state import Reason, Standing, State
from edged.drift.watch import Kept, Watch
from edged.drift.window import Subject, Window
from edged.errors import DriftError, StoreError, Trouble
from edged.models.files import Files

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Camera:
    """One camera.

    Attributes:
        name: as configured.
        page: as it is on the disk; None where nothing is.
        read: whether the disk has said what is there.
        subject: who is to be watched; None before the first inference.
        watch: of that subject; None while what is known of it cannot be read.
        kept: of the watch as it is on the disk.
        digest: of the reference, in hex.
        said: the state that is in the log, or was there before the start.
        trouble: what is wrong with the disk, or None.
    """

    name: str
    page: Page | None = None
    read: bool = False
    subject: Subject | None = None
    watch: Watch | None = None
    kept: Kept | None = None
    digest: str = ""
    said: State | None = None
    trouble: Trouble | None = None


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
        self._shelf = Shelf(state_dir, files)
        self._terms, self._warm_up = terms or Terms(), warm_up or WarmUp()
        self._cameras = {name: _Camera(name) for name in cameras}
        for camera in self._cameras.values():
            self._minding(camera, self._look_up)

    @property
    def trouble(self) -> Trouble | None:
        """What is wrong with the disk now; else what was found damaged; else None."""
        return next(iter(self._troubles()), self._shelf.damage)

    def window(self, window: Window) -> None:
        """Take a window that has ended; those of a model on trial say nothing of the camera."""
        if not window.trial:
            self._judge(window.subject, window.began_ms, lambda watch: watch.window(window))

    def minute(self, minute: Minute) -> None:
        """Take what was counted since the last call: the fast path.

        With a clock that is not known to be right nobody knows what is usual now.
        """
        at_ms, known = minute.at_ms, minute.synchronised or self._terms.trust_clock

        def judged(watch: Watch) -> Standing:
            return watch.minute(minute.tally, at_ms) if known else watch.standing

        self._judge(minute.subject, at_ms, judged)

    def obey(self, camera: str, action: Action, at_ms: int) -> None:
        """Acknowledge an alarm, or begin a new reference.

        Raises:
            DriftError: `nothing_recorded`: the camera has never shown anything.
            StoreError: what is known of the camera cannot be read; or it is done, but cannot be
                kept on the disk.
        """
        one = self._cameras[camera]
        watch = self._asked_about(one, action, at_ms)
        standing = watch.acknowledge(at_ms) if action == "acknowledge" else watch.reset(at_ms)
        one.said = standing.state
        try:
            self._save(one)
        except StoreError as error:
            raise error.about("it is done, but a restart forgets it") from error

    def standing(self, camera: str) -> dict[str, object]:
        """Return what `drift/<camera>/state` says, as JSON can carry it, without the schema."""
        one = self._cameras[camera]
        watch, subject = one.watch, one.subject
        if watch is None or subject is None:
            return _said(camera, _remembered(one))
        reference, decision = watch.kept.reference, watch.decision
        said = _said(camera, watch.standing)
        said |= {"model": subject.model, "version": subject.version, "sha256": subject.sha256}
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

    def _judge(self, subject: Subject, at_ms: int, told: Callable[[Watch], Standing]) -> None:
        def judged(camera: _Camera) -> None:
            _say(camera, told(self._look_at(camera, subject, at_ms)))
            self._save(camera)

        self._minding(self._cameras[subject.camera], judged)

    def _troubles(self) -> list[Trouble]:
        found = (camera.trouble for camera in self._cameras.values())
        return [trouble for trouble in found if trouble is not None]

    def _minding(self, camera: _Camera, act: Callable[[_Camera], None]) -> None:
        """Do what needs the disk; its trouble is said when it comes and when it goes."""
        before = {trouble.reason for trouble in self._troubles()}
        try:
            act(camera)
        except StoreError as error:
            if error.reason not in before:
                log.error("drift: %s (%s)", error.explain(), error.reason)
            camera.trouble = Trouble.of(error)
            return
        camera.trouble = None
        if before and not self._troubles():
            log.info("drift: the disk is in order again")

    def _look_up(self, camera: _Camera) -> None:
        """Read what is known of a camera.

        Raises:
            StoreError: it cannot be read; the next call tries again.
        """
        if not camera.read:
            camera.page = self._shelf.page(camera.name)
            camera.read = True
            camera.said = None if camera.page is None else camera.page.standing.state

    def _look_at(self, camera: _Camera, subject: Subject, at_ms: int) -> Watch:
        """Return the watch of a subject, from now on the camera's.

        Raises:
            StoreError: what is known of it cannot be read; the next call tries again.
        """
        if camera.subject == subject and camera.watch is not None:
            return camera.watch
        camera.subject, camera.watch = subject, None
        self._look_up(camera)
        page, digest = camera.page, digest_of(subject)
        reference = self._shelf.reference(camera.name, digest)
        complete = reference.complete(self._warm_up)
        if page is not None and page.subject == digest:
            standing = _fitting(page.standing, at_ms, complete=complete)
            kept = Kept(reference, page.memory, page.daily, standing)
        else:
            # Another model, runtime, accelerator or source: what was said is not about this one.
            kept = Kept(reference, standing=Standing("ok" if complete else "warming", at_ms))
            if page is not None:
                log.warning(
                    "camera %s: drift now looks at %s %s (%s on %s); its reference has %d hours",
                    camera.name,
                    subject.model,
                    subject.version,
                    subject.runtime,
                    subject.accelerator,
                    len(reference.hours),
                )
        return self._watched(camera, subject, kept, reference.digest if reference.hours else "")

    def _watched(self, camera: _Camera, subject: Subject, kept: Kept, digest: str) -> Watch:
        camera.kept, camera.digest = kept, digest
        camera.watch = watch = Watch(subject, self._terms, self._warm_up, kept)
        return watch

    def _asked_about(self, camera: _Camera, action: Action, at_ms: int) -> Watch:
        """Return the watch that a person's command is about.

        Raises:
            DriftError: `nothing_recorded`.
            StoreError: what is known of the camera cannot be read.
        """
        subject, page = camera.subject, camera.page
        if camera.watch is not None:
            return camera.watch
        if subject is not None and action == "reset_reference":
            camera.read = True  # nothing of what cannot be read is wanted any more
            return self._watched(camera, subject, Kept(), "")
        if subject is None and page is not None:
            # Nothing has been seen since the start: the reference says who it was.
            subject = self._shelf.reference(camera.name, page.subject).subject
        if subject is None:
            raise DriftError(
                "nothing_recorded",
                f"camera {camera.name} has shown nothing yet.",
                advice="Try again when it does.",
            )
        return self._look_at(camera, subject, at_ms)

    def _save(self, camera: _Camera) -> None:
        """Keep what has changed; first the hours, as a standing without them is worth nothing.

        Raises:
            StoreError: it is not all kept; the next call tries again.
        """
        subject, watch, before, page = camera.subject, camera.watch, camera.kept, camera.page
        if subject is None or watch is None:
            return
        kept, digest = watch.kept, digest_of(subject)
        if before is None or kept.reference is not before.reference:
            self._shelf.put_reference(camera.name, digest, kept.reference)
            camera.digest = kept.reference.digest if kept.reference.hours else ""
        listed = self._shelf.digests(camera.name) if page is None else page.subjects
        latest = (*(one for one in listed if one != digest), digest)[-MOST_REFERENCES:]
        fresh = Page(digest, kept.standing, kept.memory, kept.daily, latest)
        if fresh != page:
            self._shelf.put_page(camera.name, fresh)
        if page is None or latest != page.subjects:
            for one in self._shelf.digests(camera.name):
                if one not in latest:
                    self._shelf.remove_reference(camera.name, one)
        camera.kept, camera.page = kept, fresh


def _say(camera: _Camera, standing: Standing) -> None:
    """Say a change of state in the log."""
    if standing.state == camera.said:
        return
    camera.said = standing.state
    level = logging.WARNING if standing.state in {"warn", "drift"} else logging.INFO
    words = "; ".join(reason.detail for reason in standing.reasons)
    log.log(level, "camera %s: drift state %s %s", camera.name, standing.state, words)


def _fitting(standing: Standing, at_ms: int, *, complete: bool) -> Standing:
    """Return a standing as it was, but where it cannot be of this reference.

    Hours may have been lost to damage, or completed it just before the power went.
    """
    if complete and standing.state == "warming":
        return Standing("ok", at_ms)
    if not complete and standing.state == "ok":
        return Standing("warming", at_ms)
    return standing


def _remembered(camera: _Camera) -> Standing:
    """Return how a camera stands of which nothing has been seen, or nothing can be read."""
    standing = Standing() if camera.page is None else camera.page.standing
    if camera.trouble is None:
        return standing
    words = f"what is known of the camera cannot be read: {camera.trouble.detail}"
    return standing.told("insufficient", [Reason("disk", words)], standing.since_ms)


def _said(camera: str, standing: Standing) -> dict[str, object]:
    return {
        "camera": camera,
        "state": standing.state,
        "since": standing.since_ms / 1000,
        "reasons": [asdict(reason) for reason in standing.reasons],
    }
