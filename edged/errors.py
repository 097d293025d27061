"""What can go wrong, split first by whose fault it is.

Every error carries a stable `reason` slug (snake_case, listed in docs/reasons.md and
published over MQTT) and a message for the person who reads it. The release's faults may
mark a model bad; this device's faults never do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self


class EdgedError(Exception):
    """Root of all errors that edged raises on purpose.

    Attributes:
        reason: stable slug, `[a-z0-9_]+`.
        advice: what to do about it, one sentence, or "" where nothing is known.
    """

    def __init__(self, reason: str, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.advice = advice

    def explain(self) -> str:
        """Return the message and, where there is one, the advice."""
        return f"{self} {self.advice}".strip()

    def about(self, subject: str) -> Self:
        """Return the same error with what it is about in front of its message."""
        return type(self)(self.reason, f"{subject}: {self}", advice=self.advice)


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong at present: a stable slug and words. Unlike an error it holds nothing alive."""

    reason: str
    detail: str

    @classmethod
    def of(cls, error: EdgedError) -> Trouble:
        """Return what an error says."""
        return cls(error.reason, error.explain())


class ReleaseError(EdgedError):
    """The model, its labels or its package is at fault."""


class ValidationError(ReleaseError):
    """The model cannot run, or does not do what it says."""


class VerifyError(ReleaseError):
    """What was fetched is not signed, not what was signed, or not what signed things may be."""


class OperatorError(EdgedError):
    """What the operator asks for cannot be done with this repository, these keys or this file."""


class PackError(ReleaseError):
    """No package can be made of what the operator gave."""


class DeviceError(EdgedError):
    """This device, or what it is connected to, is at fault."""


class ConfigError(DeviceError):
    """The configuration is wrong."""


class CameraError(DeviceError):
    """A camera is missing, stalled or gives no usable frame."""


class AcceleratorError(DeviceError):
    """The runtime or the accelerator is missing, busy or does not fit."""


class StoreError(DeviceError):
    """A file or directory of the daemon's own cannot be read or written."""


class FetchError(DeviceError):
    """Something could not be fetched now; another attempt may succeed.

    Attributes:
        retry_after_s: how long the server asks to be left alone, or None.
    """

    def __init__(
        self, reason: str, message: str, *, advice: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(reason, message, advice=advice)
        self.retry_after_s = retry_after_s


class MessageError(EdgedError):
    """An inbound message cannot be taken; it is answered on the `error` topic."""


class DriftError(EdgedError):
    """Windows or references do not fit what is asked of them."""


class ControlError(EdgedError):
    """A request over the control socket cannot be taken, or its answer does not come."""
