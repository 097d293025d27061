"""What every camera promises. Pure: the adapters beside this file do the work."""

from __future__ import annotations

from typing import Protocol

from edged.frame import Picture


class Camera(Protocol):
    """One open source of pictures, used by one thread.

    A camera is made open: the constructor raises `CameraError` when the source is not there.
    """

    @property
    def description(self) -> str:
        """Source, size and rate in one line for people, e.g. `v4l2:/dev/video0 640x480 at 30/s`."""

    def read(self, timeout_s: float) -> Picture:
        """Wait for the next picture, the newest one where the source is live.

        Args:
            timeout_s: give up after this many seconds.

        Returns:
            The picture; its image may be overwritten by the next call.

        Raises:
            CameraError: `camera_stalled` when nothing came in time, `camera_lost` when the source
                went away, `camera_ended` when a file came to its end, `camera_bad_frame` when what
                came is no image.
        """

    def close(self) -> None:
        """Release the source. Safe to call twice, and from another thread while `read` waits."""
