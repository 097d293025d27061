"""Packages: a sound one is read and unpacked, every other one is refused for what it is."""

import contextlib
import errno
import hashlib
import io
import os
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim import packages
from sim.packages import Part, archive, parts, with_part

from edged.errors import EdgedError, StoreError, VerifyError
from edged.models.archive import read_directory, read_entry, write_archive
from edged.models.manifest import parse_manifest
from edged.models.package import read_package, unpack, write_package

FILES = packages.contents()


def write(folder: Path, data: bytes) -> Path:
    path = folder / "package.zip"
    path.write_bytes(data)
    return path


def unpacked(folder: Path, data: bytes) -> dict[str, bytes]:
    package = read_package(write(folder, data))
    directory = folder / "unpacked"
    directory.mkdir()
    unpack(package, directory, packages.PlainStorage())
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def refusal(folder: Path, data: bytes) -> EdgedError:
    with pytest.raises(EdgedError) as caught:
        unpacked(folder, data)
    return caught.value


def test_a_sound_package_is_read_and_unpacked(tmp_path) -> None:
    data = archive(parts())

    package = read_package(write(tmp_path, data))

    assert (package.manifest.name, package.manifest.version) == ("colours", "1.4.0")
    assert package.unpacked_bytes == sum(len(part.content) for part in parts())
    assert unpacked(tmp_path, data) == {part.name.decode(): part.content for part in parts()}
    assert package.read("labels.txt") == FILES["labels.txt"]


def test_what_is_written_is_read(tmp_path) -> None:
    manifest = parse_manifest(packages.encoded(packages.facts(FILES)))
    file, again = io.BytesIO(), io.BytesIO()
    write_package(file, manifest, FILES)
    write_package(again, manifest, dict(reversed(FILES.items())))

    assert file.getvalue() == again.getvalue()
    assert read_package(write(tmp_path, file.getvalue())).manifest == manifest
    found = unpacked(tmp_path, file.getvalue())
    assert {name: found[name] for name in FILES} == FILES
    # Another reader finds the same, and the dates are nobody's.
    with zipfile.ZipFile(io.BytesIO(file.getvalue())) as other:
        assert other.read("model.tflite") == FILES["model.tflite"]
        assert {info.date_time for info in other.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_package_of_another_tool(tmp_path) -> None:
    """Python's zipfile, stored or compressed, and `zip` with its extra fields."""
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as other:
            for part in parts():
                other.writestr(part.name.decode(), part.content)
        assert read_package(write(tmp_path, file.getvalue())).manifest.name == "colours"
    timestamp = b"UT\5\0\3" + bytes(4)
    with_times = [Part(p.name, p.content, local_extra=timestamp, central_extra=timestamp)
                  for p in parts()]  # fmt: skip
    assert read_package(write(tmp_path, archive(with_times))).manifest.name == "colours"


def named(name: bytes) -> bytes:
    return archive([*parts(), Part(name, b"x")])


def manifest_with(files: dict[str, bytes], **changes) -> bytes:
    return packages.encoded(packages.facts(files, **changes))


def digest_of_another() -> bytes:
    facts = packages.facts(FILES)
    facts["files"]["model.tflite"]["sha256"] = hashlib.sha256(b"another").hexdigest()
    return archive(parts(packages.encoded(facts)))


def size_of_another() -> bytes:
    facts = packages.facts(FILES)
    facts["files"]["model.tflite"]["bytes"] += 1
    return archive(parts(packages.encoded(facts)))


def one_too_large() -> bytes:
    """Declare 600 MiB: the numbers alone must be enough, nothing is inflated."""
    big = 600 * 2**20
    lie = {"size": big}
    return with_part(1, local=lie, central=lie)


def all_too_large() -> bytes:
    lie = {"size": 200 * 2**20}
    return archive(
        [Part(name, b"x" * 50, local=lie, central=lie) for name in
         (b"manifest.json", b"model.tflite", b"LICENSE", b"README.md")]
    )  # fmt: skip


def bomb() -> bytes:
    """Declare 1084 bytes and unpack to 64 MiB."""
    packed = packages.deflate(bytes(64 * 2**20))
    return with_part(1, packed=packed)


def overlapping() -> bytes:
    """Let two entries of the directory be the same bytes: a bomb without nesting."""
    made = parts()
    return archive([*made, Part(b"LICENSE", made[1].content, central={"offset": 0})])


ZIP64 = struct.pack("<HHQQ", 1, 16, 1084, 1084)
CUT = archive(parts())
BAD = {
    "nothing": (b"", "package_not_zip"),
    "a page": (b"<!doctype html><title>Log in</title>" * 20, "package_not_zip"),
    "a model": (b"\x1c\0\0\0TFL3" + bytes(100), "package_not_zip"),
    "a model with metadata": (b"\x1c\0\0\0TFL3" + bytes(100) + CUT, "package_not_zip"),
    "a tar": (bytes(1024), "package_not_zip"),
    "cut at the half": (CUT[: len(CUT) // 2], "package_damaged"),
    "cut at the end": (CUT[:-1], "package_damaged"),
    "a broken byte in the model": (
        with_part(1, packed=packages.deflate(bytes(len(FILES["model.tflite"])))),
        "package_damaged",
    ),
    "no deflate": (with_part(1, packed=b"\xff" * 40), "package_damaged"),
    "an empty archive": (archive([]), "package_incomplete"),
    "no manifest": (archive(parts()[1:]), "package_incomplete"),
    "no model": (archive([parts()[0], *parts()[2:]]), "package_incomplete"),
    "not mentioned": (archive([*parts(), Part(b"LICENSE", b"mine")]), "package_mismatch"),
    "another digest": (digest_of_another(), "package_mismatch"),
    "another size": (size_of_another(), "package_mismatch"),
    "not on the list": (named(b"setup.py"), "package_unsafe"),
    "upwards": (named(b"../model.tflite"), "package_unsafe"),
    "upwards with backslashes": (named(b"..\\model.tflite"), "package_unsafe"),
    "from the root": (named(b"/etc/passwd"), "package_unsafe"),
    "with a drive": (named(b"C:model.tflite"), "package_unsafe"),
    "in a directory": (named(b"a/model.tflite"), "package_unsafe"),
    "a directory": (named(b"models/"), "package_unsafe"),
    "no name": (named(b""), "package_unsafe"),
    "dots": (named(b".."), "package_unsafe"),
    "a zero inside": (named(b"model.tflite\0.txt"), "package_unsafe"),
    "a line end": (named(b"LICENSE\n"), "package_unsafe"),
    "no ASCII": (named("mödel.tflite".encode()), "package_unsafe"),
    "code page 437": (named(b"m\x94del.tflite"), "package_unsafe"),
    "letters that look alike": (named("mod\u0435l.tflite".encode()), "package_unsafe"),
    "twice": (archive([*parts(), parts()[1]]), "package_unsafe"),
    "twice in capitals": (named(b"MODEL.TFLITE"), "package_unsafe"),
    "the manifest twice": (archive([parts()[0], *parts()]), "package_unsafe"),
    "a link": (with_part(1, attributes=0o120777 << 16), "package_unsafe"),
    "a device": (with_part(1, attributes=0o060644 << 16), "package_unsafe"),
    "a pipe": (with_part(1, attributes=0o010644 << 16), "package_unsafe"),
    "a directory by mode": (with_part(1, attributes=0o040755 << 16), "package_unsafe"),
    "a directory by DOS": (with_part(1, attributes=0x10), "package_unsafe"),
    "encrypted": (with_part(1, flags=1), "package_unsafe"),
    "strongly encrypted": (with_part(1, flags=0x41), "package_unsafe"),
    "with AES": (with_part(1, local_extra=b"\x01\x99\0\0"), "package_unsafe"),
    "streamed": (with_part(1, flags=8), "package_unsafe"),
    "a patch": (with_part(1, flags=0x20), "package_unsafe"),
    "bzip2": (with_part(1, method=12), "package_unsafe"),
    "stored with two sizes": (
        with_part(1, method=0, local={"size": 9}, central={"size": 9}),
        "package_unsafe",
    ),
    "two names": (with_part(1, local={"name": b"setup.py"}), "package_unsafe"),
    "two sizes": (with_part(1, local={"size": 5}), "package_unsafe"),
    "two packed sizes": (with_part(1, local={"packed": 5}), "package_unsafe"),
    "two checksums": (with_part(1, local={"crc": 5}), "package_unsafe"),
    "two methods": (with_part(1, local={"method": 0}), "package_unsafe"),
    "zip64 here": (with_part(1, local_extra=ZIP64), "package_unsafe"),
    "zip64 there": (with_part(1, central_extra=ZIP64), "package_unsafe"),
    "zip64 sizes": (
        with_part(1, local={"size": 2**32 - 1}, central={"size": 2**32 - 1}, central_extra=ZIP64),
        "package_unsafe",
    ),
    "zip64 end": (archive(parts(), end={"here": 0xFFFF, "count": 0xFFFF}), "package_unsafe"),
    "another name in an extra": (with_part(1, central_extra=b"up\5\0\1abcd"), "package_unsafe"),
    "an extra cut short": (with_part(1, local_extra=b"UT\xff\0\1"), "package_unsafe"),
    "half an extra": (with_part(1, local_extra=b"UT"), "package_unsafe"),
    "a comment": (archive(parts(), comment=b"hello"), "package_unsafe"),
    "a comment of an entry": (with_part(1, comment=b"hello"), "package_unsafe"),
    "in front": (archive(parts(), prefix=b"#!/bin/sh\n"), "package_unsafe"),
    "in front, offsets as if not": (b"MZ" + CUT, "package_unsafe"),
    "behind": (archive(parts(), suffix=b"junk"), "package_unsafe"),
    "an archive behind": (CUT + archive(parts()[:1]), "package_unsafe"),
    "between": (with_part(1, gap=b"hidden"), "package_unsafe"),
    "before the directory": (archive(parts(), before_directory=b"hidden"), "package_unsafe"),
    "behind the compressed": (
        with_part(1, packed=packages.deflate(FILES["model.tflite"]) + b"hidden"),
        "package_unsafe",
    ),
    "overlapping": (overlapping(), "package_unsafe"),
    "an offset outside": (with_part(3, central={"offset": 2**31}), "package_unsafe"),
    "fewer than counted": (archive(parts(), end={"here": 5, "count": 5}), "package_damaged"),
    "more than counted": (archive(parts(), end={"here": 3, "count": 3}), "package_unsafe"),
    "two disks": (archive(parts(), end={"disk": 1}), "package_unsafe"),
    "some on another disk": (archive(parts(), end={"here": 3}), "package_unsafe"),
    "many entries": (
        archive([Part(b"%d" % number, b"") for number in range(2000)]),
        "package_unsafe",
    ),
    "a bomb": (bomb(), "package_unsafe"),
    "one too large": (one_too_large(), "package_too_large"),
    "all too large": (all_too_large(), "package_too_large"),
    "a manifest too large": (
        archive(parts(manifest_with(FILES) + b" " * 65536)), "manifest_too_large",
    ),
    "a manifest cut": (archive(parts(manifest_with(FILES)[:-2])), "manifest_invalid"),
    "a manifest of later": (
        archive(parts(manifest_with(FILES, schema=2))),
        "manifest_schema_unknown",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ["a model", "a model with metadata"])
def test_a_model_is_told_from_a_package(tmp_path: Path, what: str) -> None:
    path = tmp_path / "birds.zip"
    path.write_bytes(BAD[what][0])
    with pytest.raises(VerifyError) as refused:
        read_package(path)
    assert "edgectl model pack" in refused.value.explain()


@pytest.mark.parametrize("case", BAD)
def test_what_is_unsound_is_refused_with_its_reason(tmp_path, case) -> None:
    data, reason = BAD[case]

    error = refusal(tmp_path, data)

    assert (type(error), error.reason) == (VerifyError, reason), str(error)
    assert names(tmp_path) <= {"package.zip", "unpacked"}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (archive(parts()), "it has 4 entries, more than 3"),
        (archive([Part(b"a/b", b"x")]), "'a/b' is no plain file name"),
        (archive([Part(b"a\\b", b"x")]), "is no plain file name"),
        (archive([Part(b"..", b"x")]), "is no plain file name"),
        (archive([Part(b"a", b"x", flags=1)]), "a is encrypted"),
        (archive([Part(b"a", b"x", flags=8)]), "a is packed in an unusual way"),
    ],
)
def test_the_archive_alone_is_strict_too(data, words) -> None:
    """Not only the list of names stands between an archive and the file system."""
    with pytest.raises(VerifyError) as caught:
        read_directory(io.BytesIO(data), most_entries=3, most_bytes=2**20)
    assert words in str(caught.value)


def test_a_bomb_is_noticed_before_it_unpacks(tmp_path) -> None:
    """What is written stays below what is declared."""
    package = read_package(write(tmp_path, bomb()))
    written = []

    class Counting(packages.PlainStorage):
        def write_at(self, path: Path, offset_bytes: int, data: bytes) -> None:
            written.append(len(data))

    with pytest.raises(VerifyError, match="more than the 1032 declared"):
        unpack(package, tmp_path, Counting())
    assert sum(written) < 2000


def test_a_manifest_that_inflates_without_end_costs_nothing(tmp_path) -> None:
    file = io.BytesIO()
    write_archive(file, [("manifest.json", bytes(50 * 2**20))])
    path = write(tmp_path, file.getvalue())

    tracemalloc.start()
    with pytest.raises(VerifyError) as caught:
        read_package(path)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert caught.value.reason == "manifest_too_large"
    assert peak_bytes < 2**20


def test_a_directory_of_millions_costs_nothing(tmp_path) -> None:
    """The number of entries is judged before the directory is read."""
    body = bytes(40 * 2**20)
    lie = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65000, 65000, len(body), 0, 0)

    assert refusal(tmp_path, body + lie).reason == "package_unsafe"


def test_a_long_deflate_tail_is_inflated_to_its_end(tmp_path) -> None:
    """A match may go on past the piece in which all input was taken."""
    for extra in range(0, 300, 7):
        content = bytes(2 * 256 * 1024 + extra)
        file = io.BytesIO()
        write_archive(file, [("zeros", content)])
        (entry,) = read_directory(file, most_entries=1, most_bytes=2**20)
        assert b"".join(read_entry(file, entry)) == content


def test_a_file_that_cannot_be_read_is_the_devices_fault(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing.zip", tmp_path, tmp_path / "pipe"):
        with pytest.raises(StoreError) as caught:
            read_package(path)
        assert caught.value.reason == "package_unreadable"


def test_a_full_disk_is_not_the_packages_fault(tmp_path) -> None:
    class Full(packages.PlainStorage):
        def write_at(self, path: Path, offset_bytes: int, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "full")

    package = read_package(write(tmp_path, archive(parts())))
    with pytest.raises(OSError, match="full") as caught:
        unpack(package, tmp_path, Full())
    assert caught.value.errno == errno.ENOSPC


def test_everything_is_synced_before_unpack_returns(tmp_path) -> None:
    steps = []

    class Recording(packages.PlainStorage):
        def write_at(self, path: Path, offset_bytes: int, data: bytes) -> None:
            steps.append(("write", path.name))

        def fsync(self, path: Path) -> None:
            steps.append(("fsync", path.name))

        def fsync_dir(self, directory: Path) -> None:
            steps.append(("fsync_dir", directory.name))

    unpack(read_package(write(tmp_path, archive(parts()))), tmp_path, Recording())

    for part in parts():
        name = part.name.decode()
        assert steps.index(("fsync", name)) > max(
            i for i, step in enumerate(steps) if step == ("write", name)
        )
    assert steps[-1] == ("fsync_dir", tmp_path.name)


def read_all(data: bytes) -> None:
    file = io.BytesIO(data)
    for entry in read_directory(file, most_entries=8, most_bytes=2**20):
        for _ in read_entry(file, entry):
            pass


@given(st.binary(max_size=400))
def test_any_bytes_are_refused_in_one_way(data) -> None:
    with pytest.raises(VerifyError):
        read_all(data + b"!")


SOUND = archive(parts())


@given(st.data())
def test_a_changed_package_is_read_or_refused(tmp_path_factory, data) -> None:
    """Change some bytes of a sound package: it is refused, or the files are still the same."""
    changed = bytearray(SOUND)
    for at in data.draw(st.lists(st.integers(0, len(SOUND) - 1), min_size=1, max_size=6)):
        changed[at] = data.draw(st.integers(0, 255))
    folder = tmp_path_factory.mktemp("p")
    try:
        found = unpacked(folder, bytes(changed))
    except VerifyError:
        return
    assert {name: found[name] for name in FILES} == FILES


@given(st.data())
def test_parts_put_together_in_any_way(tmp_path_factory, data) -> None:
    """Whatever headers say, nothing but a VerifyError comes out, and nothing outside is written."""
    number = st.sampled_from([0, 1, 8, 9, 100, 1084, 65535, 2**31, 2**32 - 1])
    name = st.sampled_from([b"manifest.json", b"model.tflite", b"LICENSE", b"../x", b""])
    lies = st.fixed_dictionaries(
        {}, optional={"crc": number, "packed": number, "size": number, "name": name}
    )
    made = parts()
    for index in range(len(made)):
        if data.draw(st.booleans()):
            made[index] = Part(
                made[index].name, made[index].content,
                method=data.draw(st.sampled_from([0, 8])), local=data.draw(lies),
                central=data.draw(lies), gap=data.draw(st.binary(max_size=3)),
            )  # fmt: skip
    folder = tmp_path_factory.mktemp("p")
    with contextlib.suppress(VerifyError):
        unpacked(folder, archive(made))
    assert names(folder) <= {"package.zip", "unpacked"}


def test_checksums_are_those_of_zlib() -> None:
    assert SOUND.count(struct.pack("<L", zlib.crc32(FILES["model.tflite"]))) == 2


@pytest.mark.parametrize("target", sorted((Path(__file__).parent / "fuzz").glob("fuzz_*.py")))
def test_the_fuzz_targets_take_their_corpus(target) -> None:
    """Without atheris a target runs over a small corpus once and fails as it would there."""
    done = subprocess.run(
        [sys.executable, target, "--corpus-only"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"PYTHONPATH": "."},
    )

    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 20
