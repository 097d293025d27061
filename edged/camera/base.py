"""What every camera promises. Pure: the adapters beside this file do the work."""

from __future__ import annotations

from typing import Protocol

from edged.frame import Picture


class Camera(Protocol):
    """One open source of pictures, read by one thread.

    A camera is made open: the constructor raises `CameraError` when the source is not there
    (`camera_not_found`, `camera_no_permission`, `camera_busy`, `camera_not_usable`,
    `camera_unreachable`, `camera_no_images`, `camera_runtime_missing`). It never reopens itself
    after an error: close it and make a new one.
    """

    @property
    def description(self) -> str:
        """Source, size and rate in one line for people, without credentials.

        For example `v4l2:/dev/video0 (HD Webcam) 640x480 YUYV at 30/s`. It may change while
        pictures are read.
        """

    @property
    def pause_s(self) -> float:
        """The longest pause that `read` makes on purpose, to keep a rate; seconds."""

    def read(self, timeout_s: float) -> Picture:
        """Wait for the next picture: of a live source the newest, of a stored one the next.

        Args:
            timeout_s: give up when a picture is overdue by this many seconds. The pause that a
                file, a folder or the scene makes to keep its rate (`pause_s`) is not counted.

        Returns:
            The picture. Its image may be read-only, and may be overwritten by the next call.

        Raises:
            CameraError: `camera_stalled` when nothing came in time, `camera_lost` when the source
                went away or was closed, `camera_bad_frame` when what came is no image,
                `camera_no_images` when a folder has none left, `camera_unreachable` when a
                web camera that is asked for each picture does not answer.
        """

    def close(self) -> None:
        """Release the source; raises nothing, takes a few seconds at most.

        Safe to call twice, and from another thread while `read` waits: that then raises
        `camera_lost`.
        """
