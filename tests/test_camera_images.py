from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image as Pil

from edged.camera import imagefile
from edged.camera.clock import Clock
from edged.camera.imagefile import MAX_PIXELS, decode
from edged.camera.images import ImageFolder, open_images
from edged.errors import CameraError

RGB = (200, 120, 40)


def encoded(image: Pil.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(size: tuple[int, int] = (60, 40), mode: str = "RGB") -> Pil.Image:
    return Pil.new("RGB", size, RGB).convert(mode)


def exif(orientation: int) -> Pil.Exif:
    data = Pil.Exif()
    data[0x112] = orientation
    return data


def alpha() -> Pil.Image:
    image = plain(mode="RGBA")
    image.putalpha(10)
    return image


GREY = 0.299 * RGB[0] + 0.587 * RGB[1] + 0.114 * RGB[2]


@pytest.mark.parametrize(
    ("data", "shape", "bgr"),
    [
        (encoded(plain(), "PNG"), (40, 60), RGB[::-1]),
        (encoded(plain((1, 1)), "PNG"), (1, 1), RGB[::-1]),
        (encoded(plain(), "JPEG", quality=95), (40, 60), RGB[::-1]),
        (encoded(plain(), "JPEG", quality=95, progressive=True), (40, 60), RGB[::-1]),
        (encoded(plain(mode="L"), "PNG"), (40, 60), (GREY,) * 3),
        (encoded(plain(mode="L"), "JPEG"), (40, 60), (GREY,) * 3),
        (encoded(Pil.fromarray(np.full((4, 5), 40000, np.uint16)), "PNG"), (4, 5), (156,) * 3),
        (encoded(alpha(), "PNG"), (40, 60), RGB[::-1]),
        (encoded(plain(mode="P"), "PNG"), (40, 60), None),
        (encoded(plain().quantize(4), "PNG"), (40, 60), RGB[::-1]),
        (encoded(plain(mode="1"), "PNG"), (40, 60), None),
        (encoded(plain(mode="CMYK"), "JPEG", quality=95), (40, 60), RGB[::-1]),
        (encoded(plain(), "WEBP", lossless=True), (40, 60), RGB[::-1]),
        (encoded(plain(), "WEBP", quality=95), (40, 60), RGB[::-1]),
        (encoded(alpha(), "WEBP", quality=95), (40, 60), RGB[::-1]),
        (encoded(plain(), "BMP"), (40, 60), RGB[::-1]),
        (encoded(plain(), "TIFF"), (40, 60), RGB[::-1]),
        (encoded(plain(), "JPEG", quality=95, exif=exif(6)), (60, 40), RGB[::-1]),
        (encoded(plain(), "JPEG", quality=95) + b"trailing", (40, 60), RGB[::-1]),
    ],
)
def test_every_kind_of_image(
    data: bytes, shape: tuple[int, int], bgr: tuple[float, ...] | None
) -> None:
    image = decode(data)
    assert image.shape == (*shape, 3)
    assert image.dtype == np.uint8
    if bgr is not None:
        assert np.abs(image.reshape(-1, 3).mean(0) - bgr).max() < 6


def test_a_photograph_is_turned_upright() -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :10] = 255  # left
    image = decode(encoded(Pil.fromarray(pixels), "JPEG", quality=95, exif=exif(6)))
    assert image[:8].mean() > 240  # 6: the left side of the file is the top of the picture
    assert image[12:].mean() < 10


def test_of_an_animation_the_first_picture_or_a_hint() -> None:
    other = Pil.new("RGB", (60, 40), (0, 0, 0))
    data = encoded(plain(), "GIF", save_all=True, append_images=[other])
    try:
        image = decode(data)
    except CameraError as error:  # OpenCV before 5 reads no GIF
        assert int(cv2.__version__.split(".")[0]) < 5
        assert "file:" in str(error)
    else:
        assert np.abs(image.reshape(-1, 3).mean(0) - RGB[::-1]).max() < 6


def noise(size: tuple[int, int] = (64, 64)) -> Pil.Image:
    return Pil.fromarray(np.random.default_rng(1).integers(0, 255, (*size, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.9])
def test_an_image_that_ends_too_early(
    kind: str, share: float, capfd: pytest.CaptureFixture[str]
) -> None:
    data = encoded(noise(), kind)
    with pytest.raises(CameraError) as caught:
        decode(data[: int(len(data) * share)])
    assert caught.value.reason == "camera_bad_frame"
    if kind in ("JPEG", "PNG"):
        assert capfd.readouterr().err == ""  # the decoder was not asked


def test_the_end_mark_of_a_preview_is_not_that_of_the_photograph() -> None:
    preview = encoded(noise((8, 8)), "JPEG")
    data = encoded(noise(), "JPEG")
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(preview) + 2) + preview + data[2:]
    assert decode(data).shape == (64, 64, 3)
    with pytest.raises(CameraError, match="too early"):
        decode(data[: len(data) * 2 // 3])


@pytest.mark.parametrize(
    "data", [b"", b"hello" * 100, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF", b"BM", b"II*\0"]
)
def test_what_is_no_image(data: bytes) -> None:
    with pytest.raises(CameraError) as caught:
        decode(data)
    assert caught.value.reason == "camera_bad_frame"


@pytest.mark.parametrize("seed", range(60))
def test_damaged_bytes_give_an_image_or_an_error(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kind = ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"][seed % 6]
    data = bytearray(encoded(noise((16, 16)), kind))
    for at in rng.integers(0, min(len(data), 120), 3):
        data[at] = rng.integers(0, 256)
    try:
        image = decode(bytes(data))
    except CameraError as error:
        assert error.reason == "camera_bad_frame"
    else:
        assert image.ndim == 3
        assert image.shape[2] == 3


def bomb(kind: str, side: int = 30000, height: int = 30000) -> bytes:
    """A small file that says it is huge."""
    if kind == "PNG":
        chunk = b"IHDR" + struct.pack(">IIBBBBB", side, height, 8, 0, 0, 0, 0)
        rows = zlib.compress(bytes(side + 1) * 300, 9)
        return (
            b"\x89PNG\r\n\x1a\n"
            + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
            + struct.pack(">I", len(rows)) + b"IDAT" + rows
            + struct.pack(">I", zlib.crc32(b"IDAT" + rows))
            + b"\0\0\0\0IEND\xae\x42\x60\x82"
        )  # fmt: skip
    data = bytearray(encoded(plain((16, 16)), kind))
    at = {"GIF": 6, "BMP": 18, "JPEG": data.find(b"\xff\xc0") + 5}.get(kind, 0)
    layout = {"GIF": "<HH", "BMP": "<ii", "JPEG": ">HH"}.get(kind, "")
    if layout:
        struct.pack_into(layout, data, at, side, side)
    elif kind == "WEBP":
        bits = 16383 | 16383 << 14
        data = bytearray(encoded(plain((16, 16)), "WEBP", lossless=True))
        data[21:25] = bits.to_bytes(4, "little")
    else:
        entry = struct.unpack_from("<I", data, 4)[0] + 2
        for number in range(12):
            tag, form = struct.unpack_from("<HH", data, entry + 12 * number)
            if tag in (256, 257):
                layout = "<H" if form == 3 else "<I"
                struct.pack_into(layout, data, entry + 12 * number + 8, side)
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_bomb_is_not_decoded(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        pytest.fail("decoded")

    monkeypatch.setattr(imagefile.cv2, "imdecode", never)
    with pytest.raises(CameraError, match=r"30000x30000|16384x16384"):
        decode(bomb(kind))


def test_a_picture_too_long_for_opencv() -> None:
    with pytest.raises(CameraError, match="cannot be decoded"):
        decode(bomb("PNG", 2_000_000, 3))


def test_an_8k_picture() -> None:
    assert 7680 * 4320 <= MAX_PIXELS
    assert decode(encoded(plain((7680, 4320)), "JPEG")).shape == (4320, 7680, 3)


def save(folder: Path, name: str, value: int, size: int = 4) -> Path:
    path = folder / name
    assert cv2.imwrite(str(path), np.full((size, size, 3), value, np.uint8))
    return path


def values(folder: ImageFolder, count: int) -> list[int]:
    return [int(folder.next(1)[0, 0, 0]) for _ in range(count)]


def test_sorted_by_name_and_round_again(tmp_path: Path) -> None:
    for name, value in [("b.png", 2), ("a.png", 1), ("c.bmp", 3)]:
        save(tmp_path, name, value)
    folder = ImageFolder(tmp_path)
    assert values(folder, 7) == [1, 2, 3, 1, 2, 3, 1]
    assert folder.description == f"images:{tmp_path} 4x4, 3 file(s)"
    assert (folder.skipped, folder.last_skipped) == (0, "")


def test_one_file(tmp_path: Path) -> None:
    folder = ImageFolder(save(tmp_path, "a.png", 9))
    assert values(folder, 3) == [9, 9, 9]


def test_the_rate(tmp_path: Path) -> None:
    save(tmp_path, "a.png", 1)
    now = [0.0]
    clock = Clock(lambda: now[0], sleep=lambda s: now.__setitem__(0, now[0] + s))
    camera = open_images(str(tmp_path), None, clock)
    for _ in range(4):
        picture = camera.read(1)
    camera.close()
    assert now[0] == pytest.approx(3.0)
    assert picture.color == "bgr"
    assert camera.description.endswith("at 1/s")


def test_everything_odd_in_one_folder(tmp_path: Path) -> None:
    save(tmp_path, "a.png", 1)
    (tmp_path / "b.txt").write_text("labels")
    (tmp_path / "c.png").touch()
    (tmp_path / "d.png").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "e.png")
    (tmp_path / "f.png").mkdir()
    save(tmp_path / "f.png", "inside.png", 99)
    (tmp_path / "g.jpg").write_bytes(encoded(noise(), "JPEG")[:900])
    (tmp_path / "h.png").write_bytes(bomb("PNG"))
    save(tmp_path, ".hidden.png", 98)
    with (tmp_path / "i.png").open("wb") as huge:
        huge.truncate(2**31)
    save(tmp_path, "z.png", 2)
    folder = ImageFolder(tmp_path)
    assert values(folder, 6) == [1, 2, 1, 2, 1, 2]
    assert folder.skipped == 7
    assert folder.last_skipped == "i.png: it is larger than 128 MiB"
    assert "7 skipped (last i.png" in folder.description
    assert "9 file(s)" in folder.description


def test_a_folder_that_changes(tmp_path: Path) -> None:
    first, second = save(tmp_path, "a.png", 1), save(tmp_path, "b.png", 2)
    folder = ImageFolder(tmp_path)
    assert values(folder, 1) == [1]
    second.unlink()  # between listing and reading
    save(tmp_path, "c.png", 3)
    assert values(folder, 3) == [1, 3, 1]  # listed again at the end of the round
    assert folder.skipped == 0
    save(tmp_path, "a.png", 7, size=5)  # another image by the same name
    first.touch()
    assert values(folder, 2) == [3, 7]


def test_a_half_written_file_is_read_in_the_next_round(tmp_path: Path) -> None:
    save(tmp_path, "a.png", 1)
    whole = save(tmp_path, "b.png", 2).read_bytes()
    (tmp_path / "b.png").write_bytes(whole[:50])
    folder = ImageFolder(tmp_path)
    assert values(folder, 3) == [1, 1, 1]
    assert folder.skipped == 1
    (tmp_path / "b.png").write_bytes(whole)
    assert values(folder, 2) == [2, 1]
    assert folder.skipped == 0


def refusal(path: Path) -> CameraError:
    with pytest.raises(CameraError) as caught:
        ImageFolder(path)
    return caught.value


def test_nothing_to_show(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none").reason == "camera_not_found"
    assert refusal(tmp_path).reason == "camera_no_images"
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.txt").write_text("x")
    error = refusal(tmp_path)
    assert error.reason == "camera_no_images"
    assert "b.txt" in str(error)
    assert "JPEG" in error.advice


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "locked").mkdir(mode=0)
    assert refusal(tmp_path / "locked").reason == "camera_no_permission"


def test_the_images_go_away_while_they_are_shown(tmp_path: Path) -> None:
    path = save(tmp_path, "a.png", 1)
    folder = ImageFolder(tmp_path)
    folder.next(1)
    path.unlink()
    with pytest.raises(CameraError) as caught:
        folder.next(1)
    assert caught.value.reason == "camera_no_images"
    save(tmp_path, "b.png", 5)
    assert values(folder, 2) == [5, 5]  # and come back
    (tmp_path / "b.png").unlink()
    tmp_path.rmdir()
    with pytest.raises(CameraError) as caught:
        folder.next(1)
    assert caught.value.reason == "camera_not_found"


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []

    def count(data: bytes) -> Any:
        calls.append(len(data))
        return decode(data)

    monkeypatch.setattr("edged.camera.images.decode", count)
    return calls


def test_few_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch)
    for number in range(4):
        save(tmp_path, f"{number}.png", number)
    folder = ImageFolder(tmp_path)
    assert values(folder, 40) == [0, 1, 2, 3] * 10
    assert len(calls) == 4
    with pytest.raises(ValueError, match="read-only"):
        folder.next(1)[0, 0, 0] = 9


def test_many_images_fill_the_cache_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = counted(monkeypatch)
    for number in range(4):
        save(tmp_path, f"{number}.png", number)  # 48 bytes each
    folder = ImageFolder(tmp_path, cache_bytes=100)
    assert values(folder, 40) == [0, 1, 2, 3] * 10
    assert len(calls) == 2 + 2 * 10  # two fit, the others are decoded in each round
    kept = sum(entry.image.nbytes for entry in folder._cache.values())
    assert kept == 96
    folder.release()
    assert folder._cache == {}
