"""What a journal consists of: states, origins, releases, deployments and their results. Pure.

Records are values that refuse, with ValueError, what cannot be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from edged.models.desired import ID, Source
from edged.models.version import Version

DETAIL_CHARACTERS = 500
HEALTH_CHARACTERS = 2048
_SHA256 = re.compile(r"[0-9a-f]{64}")
_REASON = re.compile(r"[a-z0-9_]{0,64}")


class State(StrEnum):
    """Where a deployment stands; the last five are terminal."""

    SYNCING = "SYNCING"
    DOWNLOADING = "DOWNLOADING"
    VERIFYING = "VERIFYING"
    VALIDATING = "VALIDATING"
    TRIAL = "TRIAL"
    ROLLING_BACK = "ROLLING_BACK"
    COMMITTED = "COMMITTED"
    ROLLED_BACK = "ROLLED_BACK"
    REJECTED = "REJECTED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


BEFORE_TRIAL = (State.SYNCING, State.DOWNLOADING, State.VERIFYING, State.VALIDATING)


class Status(StrEnum):
    """How a deployment ended, as it is published."""

    SUCCEEDED = "SUCCEEDED"
    ROLLED_BACK = "ROLLED_BACK"
    REJECTED = "REJECTED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"


STATUS = {
    State.COMMITTED: Status.SUCCEEDED,
    State.ROLLED_BACK: Status.ROLLED_BACK,
    State.REJECTED: Status.REJECTED,
    State.FAILED: Status.FAILED,
    State.CANCELED: Status.CANCELED,
}


class Origin(StrEnum):
    """Who started a deployment."""

    DESIRED = "desired"
    LOCAL = "local"  # a person at the device
    FACTORY = "factory"  # a new factory file
    COMMAND = "command"  # to roll back
    FALLBACK = "fallback"  # the device itself


@dataclass(frozen=True, slots=True)
class Moment:
    """When something begins: Unix time, and the boot id of the kernel."""

    now_ms: int
    boot_id: str


@dataclass(frozen=True, slots=True)
class Release:
    """An installed version; `since_ms` is the Unix time of its present role."""

    version: str
    sha256: str
    since_ms: int

    def __post_init__(self) -> None:
        check(_is_version(self.version), "version")
        check(_SHA256.fullmatch(self.sha256), "sha256")


@dataclass(frozen=True, slots=True)
class Mark:
    """A lasting verdict on a digest."""

    version: str
    sha256: str
    bad: bool
    reason: str

    def __post_init__(self) -> None:
        check(_is_version(self.version), "version")
        check(_SHA256.fullmatch(self.sha256), "sha256")
        check(_REASON.fullmatch(self.reason), "reason")


@dataclass(frozen=True, slots=True)
class Held:
    """The latest that a source wants; without a version it has released the model."""

    source: Source
    deployment_id: str
    version: str | None
    order_ms: int
    percent: int

    def __post_init__(self) -> None:
        check(ID.fullmatch(self.deployment_id), "deployment_id")
        check(self.version is None or _is_version(self.version), "version")
        check(self.order_ms >= 0, "order_ms")
        check(0 <= self.percent <= 100, "percent")


@dataclass(frozen=True, slots=True)
class Deployment:
    """An attempt under way.

    Attributes:
        deployment_id: the operator's name for it, or one that the device gave.
        origin: who started it.
        order_ms: of the Desired; 0 for the other origins.
        version: what is to be installed, or in a roll-back the version to leave.
        sha256: of the same; "" until it is found.
        state: never a terminal one.
        attempts: crashes in this state that were blamed on it.
        interruptions: other ends of the process in this state that were no clean stop.
        transitions: so far, with those after a restart into the same state.
        boot_id: of the kernel that the process last ran under.
        used_s: monotonic seconds spent before TRIAL, over all restarts.
        reason: why it is rolled back, or what holds it up at present; "" for nothing.
        detail: the same in words.
        health: JSON text of the figures behind the verdict of the trial; "" without.
        began_ms: Unix time.
        unusable: digests that a roll-back found missing or damaged.
    """

    deployment_id: str
    origin: Origin
    order_ms: int
    version: str
    sha256: str
    state: State
    attempts: int
    interruptions: int
    transitions: int
    boot_id: str
    used_s: float
    reason: str
    detail: str
    health: str
    began_ms: int
    unusable: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_outcome(self)
        check(self.state not in STATUS, "state")
        check(self.sha256 or self.state is State.SYNCING, "sha256")
        check(self.reason or self.state is not State.ROLLING_BACK, "reason")
        check(min(self.attempts, self.interruptions, self.transitions) >= 0, "count")
        check(0 <= self.used_s < float("inf"), "used_s")
        check(all(map(_SHA256.fullmatch, self.unusable)), "unusable")
        check(len(self.boot_id) <= 64, "boot_id")


@dataclass(frozen=True, slots=True)
class Result:
    """How a deployment ended: published once, and again only in the same words.

    Attributes:
        reported: it is in the outbox, which keeps it until the broker has it.
    """

    deployment_id: str
    origin: Origin
    version: str
    sha256: str
    status: Status
    reason: str
    detail: str
    health: str
    began_ms: int
    ended_ms: int
    reported: bool

    def __post_init__(self) -> None:
        _check_outcome(self)
        check(self.reason or self.status is Status.SUCCEEDED, "reason")


@dataclass(frozen=True, slots=True)
class Crashes:
    """How often the model with this digest took the process down without a healthy minute."""

    sha256: str
    count: int

    def __post_init__(self) -> None:
        check(_SHA256.fullmatch(self.sha256), "sha256")
        check(self.count > 0, "count")


def clip(text: str) -> str:
    """Return words that any JSON can carry: file names may hold bytes that are no text."""
    return text.encode("utf-8", "backslashreplace").decode()[:DETAIL_CHARACTERS]


def _check_outcome(record: Deployment | Result) -> None:
    check(ID.fullmatch(record.deployment_id), "deployment_id")
    check(_is_version(record.version), "version")
    check(record.sha256 == "" or _SHA256.fullmatch(record.sha256), "sha256")
    check(_REASON.fullmatch(record.reason), "reason")
    check(len(record.detail) <= DETAIL_CHARACTERS, "detail")
    check(len(record.health) <= HEALTH_CHARACTERS, "health")


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except ValueError:
        return False
    return True


def check(holds: object, what: str) -> None:
    """Raise ValueError unless something holds."""
    if not holds:
        raise ValueError(f"{what} is out of bounds")
