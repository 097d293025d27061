"""`images:`: a folder of images, or a single one, shown one after the other for ever."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edged.camera.clock import Clock
from edged.camera.imagefile import decode
from edged.camera.paced import PacedCamera
from edged.errors import CameraError
from edged.frame import Color, Image
from edged.hidden import let_it_be_read

NATURAL_FPS = 1.0
"""Images a second where the configuration says nothing."""

MAX_FILE_BYTES = 128 * 2**20
_CACHE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class _Decoded:
    version: tuple[int, int, int]
    image: Image


class ImageFolder:
    """The images in a folder by name, from the first again after the last.

    The folder is listed anew on every round, without its subfolders and hidden files, so it may
    change meanwhile. A file that cannot be read is passed over and counted. What has been decoded
    is kept up to `cache_bytes`, first come, first kept: with rounds in a fixed order dropping the
    least recently used would always drop what is needed next.
    """

    color: Color = "bgr"

    def __init__(self, path: str | Path, *, cache_bytes: int = _CACHE_BYTES) -> None:
        """Look into a folder.

        Args:
            path: a folder or one image.
            cache_bytes: limit of the decoded images kept in memory.

        Raises:
            CameraError: `camera_not_found`, `camera_no_permission`, `camera_no_images`.
        """
        self._path = Path(path)
        self._cache_bytes = cache_bytes
        self._cache: dict[str, _Decoded] = {}
        self._files: list[Path] = []
        self._position = 0
        self._unreadable: dict[str, str] = {}  # name: why, of files in the folder
        self._list()
        first = self._take()
        self._size = f"{first.shape[1]}x{first.shape[0]}"
        self._position = 0

    @property
    def skipped(self) -> int:
        """Files in the folder that could not be read when last tried."""
        return len(self._unreadable)

    @property
    def last_skipped(self) -> str:
        """Name of the last of them and why, or ""."""
        return ": ".join(next(reversed(self._unreadable.items()), ()))

    @property
    def description(self) -> str:
        """Path, size of the first image, number of files, and how many of them are unreadable."""
        text = f"images:{self._path} {self._size}, {len(self._files)} file(s)"
        if not self._unreadable:
            return text
        return f"{text}, {self.skipped} skipped (last {self.last_skipped})"

    def next(self, timeout_s: float) -> Image:  # noqa: ARG002 - a local folder does not stall
        """Return the next readable image, read-only.

        Raises:
            CameraError: `camera_no_images` when a whole round had none, `camera_not_found` or
                `camera_no_permission` when the folder went away.
        """
        return self._take()

    def release(self) -> None:
        """Forget the decoded images."""
        self._cache.clear()

    def _take(self) -> Image:
        """Return the next readable image."""
        whole = False  # whether every file of the present list was tried in this call
        while True:
            if self._position >= len(self._files):
                if whole:
                    raise self._none()
                self._list()
            whole = whole or self._position == 0
            file = self._files[self._position]
            self._position += 1
            try:
                image = self._load(file)
            except (OSError, CameraError) as error:
                # A file may vanish, or be half written: the next round looks again.
                why = error.strerror if isinstance(error, OSError) else str(error)
                self._cache.pop(file.name, None)
                self._unreadable.pop(file.name, None)
                self._unreadable[file.name] = why or type(error).__name__
            else:
                self._unreadable.pop(file.name, None)
                return image

    def _none(self) -> CameraError:
        return CameraError(
            "camera_no_images",
            f"None of the {len(self._files)} file(s) in {self._path} can be read "
            f"(last {self.last_skipped}).",
            advice="Put JPEG, PNG, BMP, WebP or TIFF images there.",
        )

    def _list(self) -> None:
        self._position = 0
        try:
            if self._path.is_dir():
                files = [file for file in self._path.iterdir() if not file.name.startswith(".")]
                self._files = sorted(file for file in files if not file.is_dir())
            else:
                self._path.stat()
                self._files = [self._path]
        except PermissionError as error:
            raise CameraError(
                "camera_no_permission",
                f"{self._path} may not be read.",
                advice=let_it_be_read(str(self._path.absolute())),
            ) from error
        except OSError as error:
            raise CameraError(
                "camera_not_found",
                f"{self._path} cannot be listed: {error.strerror}.",
                advice="source = images:DIR names a folder, or one image.",
            ) from error
        if not self._files:
            raise CameraError(
                "camera_no_images",
                f"The folder {self._path} is empty.",
                advice="Put JPEG, PNG, BMP, WebP or TIFF images there; subfolders do not count.",
            )
        names = {file.name for file in self._files}
        self._cache = {name: kept for name, kept in self._cache.items() if name in names}
        self._unreadable = {name: why for name, why in self._unreadable.items() if name in names}

    def _load(self, file: Path) -> Image:
        status = file.stat()
        version = (status.st_mtime_ns, status.st_size, status.st_ino)
        kept = self._cache.get(file.name)
        if kept is not None and kept.version == version:
            return kept.image
        if not file.is_file():
            raise CameraError("camera_bad_frame", "it is no file")  # a pipe would wait for ever
        if status.st_size > MAX_FILE_BYTES:
            limit = MAX_FILE_BYTES // 2**20
            raise CameraError("camera_bad_frame", f"it is larger than {limit} MiB")
        image = decode(file.read_bytes())
        image.flags.writeable = False  # shown again in the next round
        self._cache.pop(file.name, None)
        held = sum(other.image.nbytes for other in self._cache.values())
        if held + image.nbytes <= self._cache_bytes:
            self._cache[file.name] = _Decoded(version, image)
        return image


def open_images(path: str, fps: float | None, clock: Clock | None = None) -> PacedCamera:
    """Open a folder of images, or one image, as a camera.

    Args:
        path: folder or file.
        fps: images a second, 0 for as fast as they are read, None for one a second.
        clock: where the time comes from.

    Raises:
        CameraError: as `ImageFolder`.
    """
    return PacedCamera(ImageFolder(path), NATURAL_FPS if fps is None else fps, clock)
