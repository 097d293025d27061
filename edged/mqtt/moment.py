"""When something happened, told so that it survives a reboot and a wrong clock. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Moment:
    """One moment on three clocks.

    Attributes:
        unix_s: the wall clock, which may be wrong and may jump.
        boot: id of the kernel's run; "" where it is not known.
        boottime_s: seconds since that began, also those in suspend.
    """

    unix_s: float
    boot: str
    boottime_s: float

    def earlier(self, age_s: float) -> Moment:
        """Return the moment `age_s` before this one, in the same run of the kernel."""
        return Moment(self.unix_s - age_s, self.boot, self.boottime_s - age_s)

    def since(self, then: Moment) -> float:
        """Return the seconds from `then` to this moment, at least 0.

        Over a reboot only the wall clock can tell. One that says less than nothing (a board
        without a battery for its clock starts in the past) is not believed: 0.
        """
        if self.boot and then.boot == self.boot:
            return max(0.0, self.boottime_s - then.boottime_s)
        return max(0.0, self.unix_s - then.unix_s)
