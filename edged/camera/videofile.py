"""`file:`: a video file, played for ever."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from edged.camera.clock import Clock
from edged.camera.paced import PacedCamera
from edged.camera.videoio import open_capture, rate_of, size_of
from edged.errors import CameraError
from edged.frame import Color, Image
from edged.hidden import let_it_be_read

_FALLBACK_FPS = 25.0


class VideoFile:
    """The pictures of a video file, from the first again after the last.

    Every round opens the file anew. Going back by seeking is no good: measured, it said yes and
    then gave nothing (H.264 without container) or left out the first 15 pictures (MPEG-TS).
    """

    color: Color = "bgr"

    def __init__(self, path: str) -> None:
        """Open a file.

        Raises:
            CameraError: `camera_not_found`, `camera_no_permission`, `camera_not_usable`.
        """
        self._path = path
        try:
            with Path(path).open("rb"):
                pass
        except (FileNotFoundError, NotADirectoryError) as error:
            raise CameraError("camera_not_found", f"There is no file {path}.") from error
        except PermissionError as error:
            raise CameraError(
                "camera_no_permission",
                f"{path} may not be read.",
                advice=let_it_be_read(str(Path(path).absolute())),
            ) from error
        except IsADirectoryError as error:
            raise CameraError(
                "camera_not_usable",
                f"{path} is a folder.",
                advice='A folder of images is source = "images:DIR".',
            ) from error
        except OSError as error:
            raise CameraError(
                "camera_not_usable", f"{path} cannot be read: {error.strerror}."
            ) from error
        self._capture = open_capture(path, cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise CameraError("camera_not_usable", f"{path} is no video that FFmpeg reads.")
        self.fps = rate_of(self._capture) or _FALLBACK_FPS
        self._size = size_of(self._capture)

    @property
    def description(self) -> str:
        """Path and size."""
        return f"file:{self._path} {self._size}"

    def next(self, timeout_s: float) -> Image:  # noqa: ARG002 - a local file does not stall
        """Return the next picture: uint8 (height, width, 3), BGR, a new array.

        Raises:
            CameraError: `camera_lost` when the file went away, `camera_bad_frame` when it has no
                picture that can be decoded.
        """
        read, image = self._capture.read()
        if not read:
            self._capture.release()
            self._capture = open_capture(self._path, cv2.CAP_FFMPEG)
            if not self._capture.isOpened():
                raise CameraError("camera_lost", f"{self._path} cannot be opened again.")
            read, image = self._capture.read()
            if not read:
                raise CameraError("camera_bad_frame", f"{self._path} has no readable picture.")
        return np.asarray(image, np.uint8)

    def release(self) -> None:
        """Close the file."""
        self._capture.release()


def open_file(path: str, fps: float | None, clock: Clock | None = None) -> PacedCamera:
    """Open a video file as a camera.

    Args:
        path: the file.
        fps: pictures a second, 0 for as fast as they are read, None for the file's own rate.
        clock: where the time comes from.

    Raises:
        CameraError: as `VideoFile`.
    """
    video = VideoFile(path)
    return PacedCamera(video, video.fps if fps is None else fps, clock)
