"""The store: the journal's file, and the versions of the models on the disk."""

from __future__ import annotations

import errno
import hashlib
import mmap
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from sim.disk import SmallDisk
from sim.files import PowerCutError, WatchedFiles, read_tree
from sim.journals import ACTIVE, FACTORY, PREVIOUS, SETTLED, sha, under_way

from edged.errors import StoreError, VerifyError
from edged.models.files import Files
from edged.models.journal import Journal, encode_journal
from edged.models.journalfile import COPY, DAMAGED, STATE, JournalFile, Loaded
from edged.models.records import State
from edged.models.seal import SEAL, Seal, bare_digest, encode_seal, parse_seal
from edged.models.store import Store
from edged.models.version import Version

CONTENTS = {"manifest.json": b"{}", "model.tflite": bytes(range(256)) * 4}


class BadSectors(Files):
    """A disk that cannot give these files any more."""

    def __init__(self, *names: str) -> None:
        self.bad = names

    def read(self, path: Path) -> bytes:
        self._sector(path)
        return super().read(path)

    def sha256(self, path: Path) -> str:
        self._sector(path)
        return super().sha256(path)

    def _sector(self, path: Path) -> None:
        if path.name in self.bad:
            raise OSError(errno.EIO, "bad sector")


class ReadOnly(Files):
    """An ext4 after an error: what is in memory can be read, nothing can be made safe."""

    def fsync_dir(self, directory: Path) -> None:
        raise OSError(errno.EROFS, "read-only")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, spare_bytes=0)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Where the model is."""
    return tmp_path / "models/birds"


def journal_file(home: Path, files: Files | None = None) -> JournalFile:
    return JournalFile(home, files or Files())


def filler(contents: Mapping[str, bytes] = CONTENTS) -> Callable[[Path], None]:
    def fill(directory: Path) -> None:
        for name, data in contents.items():
            (directory / name).write_bytes(data)

    return fill


def install(
    store: Store, version: str, sha256: str = "", contents: Mapping[str, bytes] = CONTENTS
) -> Path:
    return store.install("birds", version, sha256 or sha(version), 100, filler(contents))


def newer(journal: Journal, active: str | None = None) -> bytes:
    """A file of the edged after this one, which calls the active release as it likes."""
    old = encode_journal(journal)
    body = old[old.index(b'"journal":') + 10 : -2].replace(b'"schema":1', b'"schema":2,"new":[]', 1)
    if active is not None:
        body = body.replace(b'"active":{', active.encode(), 1)
    digest = hashlib.sha256(body).hexdigest().encode()
    return b'{"sha256":"%s","journal":%s}\n' % (digest, body)


LATER = replace(SETTLED, serial=7)


# The journal's file


def test_nothing_is_there_at_first(home: Path) -> None:
    assert journal_file(home).load() == Loaded(None)
    assert not home.exists()


def test_the_copy_is_the_journal_before(home: Path) -> None:
    file = journal_file(home)
    file.save(SETTLED)
    assert sorted(path.name for path in home.iterdir()) == [STATE]
    file.save(LATER)
    assert journal_file(home).load() == Loaded(LATER, ACTIVE)
    assert (home / COPY).read_bytes() == encode_journal(SETTLED)
    assert sorted(path.name for path in home.iterdir()) == [STATE, COPY]


@pytest.mark.parametrize(
    "damage",
    [b"", b"\0" * 500, encode_journal(LATER)[:300], encode_journal(LATER)[:-2] + b"!\n",
     encode_journal(replace(LATER, model="cats"))],
    ids=["empty", "zeros", "half", "flipped", "of another model"],
)  # fmt: skip
def test_a_damaged_journal(home: Path, damage: bytes) -> None:
    file = journal_file(home)
    file.save(SETTLED)
    file.save(LATER)
    (home / STATE).write_bytes(damage)

    loaded = file.load()
    assert loaded.journal == SETTLED
    assert loaded.active == ACTIVE
    assert loaded.trouble is not None
    assert loaded.trouble.reason == "journal_damaged"
    assert STATE in loaded.trouble.detail
    assert not loaded.read_only

    # It never takes the place of the good copy, and is there for whoever wants to look.
    file.save(LATER)
    assert file.load() == Loaded(LATER, ACTIVE)
    assert (home / COPY).read_bytes() == encode_journal(SETTLED)
    assert (home / DAMAGED).read_bytes() == damage


def test_journal_and_copy_are_damaged(home: Path) -> None:
    file = journal_file(home)
    file.save(SETTLED)
    file.save(LATER)
    (home / STATE).write_bytes(b"x")
    (home / COPY).write_bytes(b"y")
    loaded = file.load()
    assert (loaded.journal, loaded.active, loaded.read_only) == (None, None, False)
    assert loaded.trouble is not None
    assert loaded.trouble.reason == "journal_damaged"
    file.save(LATER)
    assert file.load() == Loaded(LATER, ACTIVE)


def test_a_damaged_copy_of_a_good_journal_is_nobodys_trouble(home: Path) -> None:
    file = journal_file(home)
    file.save(SETTLED)
    (home / COPY).write_bytes(b"y")
    assert file.load() == Loaded(SETTLED, ACTIVE)


def test_killed_between_the_two_moves(home: Path) -> None:
    journal_file(home).save(SETTLED)
    dying = WatchedFiles().die_at(3)
    with pytest.raises(PowerCutError):
        journal_file(home, dying).save(LATER)
    assert [step.kind for step in dying.steps] == ["write", "fsync", "rename"]
    assert not (home / STATE).exists()
    assert journal_file(home).load() == Loaded(SETTLED, ACTIVE)
    journal_file(home).save(LATER)
    assert (home / COPY).read_bytes() == encode_journal(SETTLED)


@pytest.mark.parametrize("where", [STATE, COPY])
def test_a_newer_journal_is_never_lost(home: Path, where: str) -> None:
    file = journal_file(home)
    file.save(SETTLED)
    if where == COPY:
        (home / STATE).write_bytes(b"damaged")
    (home / where).write_bytes(newer(SETTLED))
    before = read_tree(home)

    loaded = file.load()
    assert (loaded.journal, loaded.active, loaded.read_only) == (None, ACTIVE, True)
    assert loaded.trouble is not None
    assert loaded.trouble.reason == "journal_newer"
    with pytest.raises(StoreError) as caught:
        file.save(LATER)
    assert caught.value.reason == "journal_newer"
    assert read_tree(home) == before


@pytest.mark.parametrize(
    ("active", "known"),
    [('"active":{"more":[1],', ACTIVE), ('"activ":{', None), ('"active":3,"x":{', None),
     ('"active":{"version":"no","_":{},"old":{}},"x":{', None)],
)  # fmt: skip
def test_what_is_active_by_a_newer_journal(home: Path, active: str, known: object) -> None:
    home.mkdir(parents=True)
    (home / STATE).write_bytes(newer(SETTLED, active))
    assert journal_file(home).load().active == known


def test_bad_sectors(home: Path) -> None:
    journal_file(home).save(SETTLED)
    journal_file(home).save(LATER)
    file = journal_file(home, BadSectors(STATE))
    loaded = file.load()
    assert loaded.journal == SETTLED
    assert loaded.trouble is not None
    assert loaded.trouble.reason == "disk_failed"
    file.save(LATER)
    assert (home / COPY).read_bytes() == encode_journal(SETTLED)
    both = journal_file(home, BadSectors(STATE, COPY)).load()
    assert (both.journal, both.read_only) == (None, False)


def test_a_disk_that_fails_once_is_asked_again(home: Path) -> None:
    journal_file(home).save(SETTLED)
    journal_file(home).save(LATER)
    failing = WatchedFiles().fail_at(0, errno.EIO)
    assert journal_file(home, failing).load() == Loaded(LATER, ACTIVE)


def test_no_older_journal_for_want_of_a_descriptor(home: Path) -> None:
    journal_file(home).save(SETTLED)
    journal_file(home).save(LATER)
    with pytest.raises(StoreError) as caught:
        journal_file(home, WatchedFiles().fail_at(0, errno.EMFILE)).load()
    assert caught.value.reason == "descriptors_exhausted"


def test_a_read_only_disk_still_tells_what_is_active(home: Path) -> None:
    journal_file(home).save(SETTLED)
    loaded = journal_file(home, ReadOnly()).load()
    assert (loaded.journal, loaded.active, loaded.read_only) == (SETTLED, ACTIVE, True)
    assert loaded.trouble is not None
    assert loaded.trouble.reason == "disk_read_only"


# Versions


def test_a_version_appears_as_a_whole(store: Store, home: Path) -> None:
    place = install(store, "1.0.0")
    assert place == home / "1.0.0" == store.check("birds", "1.0.0", sha("1.0.0"))
    assert {name: (place / name).read_bytes() for name in CONTENTS} == CONTENTS
    assert sorted(path.name for path in place.iterdir()) == sorted([SEAL, *CONTENTS])
    assert [path.name for path in home.iterdir()] == ["1.0.0"]
    if shutil.which("sha256sum"):
        subprocess.run(["sha256sum", "--check", "--strict", SEAL], cwd=place, check=True)


def test_the_same_again_is_left_as_it_is(tmp_path: Path, store: Store) -> None:
    place = install(store, "1.0.0")
    inode = place.stat().st_ino
    files = WatchedFiles()
    again = Store(tmp_path, files, spare_bytes=10**15)  # no room is needed either
    again.install("birds", "1.0.0", sha("1.0.0"), 100, fill=lambda _: pytest.fail("filled"))
    assert [step.kind for step in files.steps] == ["fsync_dir"]
    assert place.stat().st_ino == inode


def test_another_release_of_the_same_version(store: Store, home: Path) -> None:
    install(store, "1.0.0")
    before = read_tree(home)
    with pytest.raises(StoreError) as caught:
        install(store, "1.0.0", sha("other"))
    assert caught.value.reason == "version_taken"
    assert read_tree(home) == before


def damage_model(place: Path) -> None:
    data = bytearray((place / "model.tflite").read_bytes())
    data[700] ^= 4
    (place / "model.tflite").write_bytes(data)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "one bit": damage_model,
    "cut short": lambda place: (place / "model.tflite").write_bytes(CONTENTS["model.tflite"][:-1]),
    "a file is gone": lambda place: (place / "manifest.json").unlink(),
    "a file too many": lambda place: (place / "model_edgetpu.tflite").write_bytes(b"x"),
    "a directory for a file": lambda place: (
        (place / "manifest.json").unlink(), (place / "manifest.json").mkdir()
    ),
    "no seal": lambda place: (place / SEAL).unlink(),
    "empty seal": lambda place: (place / SEAL).write_bytes(b""),
    "the seal of another version": lambda place: (place / SEAL).write_bytes(
        encode_seal(Seal("birds", "1.0.1", sha("1.0.0"), {}))
    ),
    "the seal of another model": lambda place: (place / SEAL).write_bytes(
        encode_seal(Seal("cats", "1.0.0", sha("1.0.0"), {}))
    ),
    "empty": lambda place: [path.unlink() for path in place.iterdir()],
    "a file": lambda place: (shutil.rmtree(place), place.write_bytes(b"x")),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damage_is_told_and_mended(
    store: Store, home: Path, damage: Callable[[Path], object]
) -> None:
    place = install(store, "1.0.0")
    damage(place)
    with pytest.raises(StoreError) as caught:
        store.check("birds", "1.0.0", sha("1.0.0"))
    assert caught.value.reason == "release_damaged"
    for leftover in (".1.0.0.new", ".1.0.0.gone"):  # somebody was killed at this before
        (home / leftover).mkdir()
        (home / leftover / "model.tflite").write_bytes(b"half")
    install(store, "1.0.0")
    store.check("birds", "1.0.0", sha("1.0.0"))
    assert [path.name for path in home.iterdir()] == ["1.0.0"]


def test_a_version_that_is_not_there(store: Store) -> None:
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            store.check("birds", "1.0.0", sha("1.0.0"))
        assert caught.value.reason == "release_missing"
        install(store, "1.1.0")


def test_a_version_of_another_release(store: Store) -> None:
    install(store, "1.0.0")
    with pytest.raises(StoreError) as caught:
        store.check("birds", "1.0.0", sha("other"))
    assert caught.value.reason == "release_damaged"


@pytest.mark.parametrize("bad", [SEAL, "model.tflite"])
def test_a_version_on_bad_sectors(tmp_path: Path, store: Store, bad: str) -> None:
    install(store, "1.0.0")
    failing = Store(tmp_path, BadSectors(bad))
    with pytest.raises(StoreError) as caught:
        failing.check("birds", "1.0.0", sha("1.0.0"))
    assert caught.value.reason == "release_damaged"


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENOMEM])
def test_trouble_that_passes_is_no_damage(tmp_path: Path, store: Store, code: int) -> None:
    """Else a device short of descriptors would fall back."""
    install(store, "1.0.0")
    for call in range(20):
        files = WatchedFiles().fail_at(call, code)
        try:
            Store(tmp_path, files).check("birds", "1.0.0", sha("1.0.0"))
        except StoreError as error:
            assert error.reason in ("descriptors_exhausted", "disk_unusable")
        else:
            break
    assert call == 5


def test_a_mapped_file_outlives_its_directory(store: Store, home: Path) -> None:
    """As a runtime maps it: what is moved aside and removed stays readable."""
    place = install(store, "1.0.0")
    with (place / "model.tflite").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (place / "manifest.json").unlink()
    install(store, "1.0.0", contents=CONTENTS | {"model.tflite": b"other"})
    assert mapped[:] == CONTENTS["model.tflite"]
    mapped.close()


def test_a_package_that_cannot_be_unpacked(store: Store, home: Path) -> None:
    def fill(directory: Path) -> None:
        (directory / "half").write_bytes(b"x")
        raise VerifyError("package_damaged", "no.")

    install(store, "1.0.0")
    with pytest.raises(VerifyError):
        store.install("birds", "1.1.0", sha("1.1.0"), 100, fill)
    assert [path.name for path in home.iterdir()] == ["1.0.0"]


@pytest.mark.parametrize("version", ["", "..", "../../etc", "1.0", "1.0.0/x", "state.json"])
def test_only_a_version_is_a_directory(store: Store, version: str) -> None:
    with pytest.raises(ValueError, match="no version of 1 to 64|not valid SemVer"):
        install(store, version, sha("1.0.0"))


def test_every_flipped_bit_of_a_seal_is_damage() -> None:
    seal = Seal("birds", "1.0.0-rc.1+x", sha("1"), {"model.tflite": sha("2"), "LICENSE": sha("3")})
    data = encode_seal(seal)
    assert parse_seal(data) == seal
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            assert parse_seal(bytes(flipped)) is None


@pytest.mark.parametrize("body", [b"", b"\xff\n", b"# birds 1.0.0\n", b"x  model.tflite\n"])
def test_a_seal_that_makes_no_sense(body: bytes) -> None:
    assert parse_seal(body + f"# {hashlib.sha256(body).hexdigest()}\n".encode()) is None


# The factory


def test_a_bare_file_becomes_a_version(store: Store, home: Path) -> None:
    data = CONTENTS["model.tflite"]
    digest = hashlib.sha256(data).hexdigest()
    place = store.import_factory("birds", {"model.tflite": data})
    assert place == home / f"0.0.0-factory-{digest[:8]}"
    assert store.check("birds", place.name, digest) == place
    assert store.import_factory("birds", {"model.tflite": data}) == place


def test_siblings_are_part_of_it() -> None:
    one = {"model.tflite": b"a", "labels.txt": b"b"}
    assert bare_digest(one) == bare_digest(dict(reversed(one.items())))
    others = [{"model.tflite": b"a"}, one | {"labels.txt": b"c"}, {"model.tflite": b"b", "l": b"a"}]
    assert len({bare_digest(each) for each in [one, *others]}) == 4
    assert Version.factory(bare_digest(one)).text.startswith("0.0.0-factory-")


# What is collected


@pytest.fixture
def settled(store: Store) -> Store:
    """All that `SETTLED` names is there, and 1.0.0, which nothing names."""
    for release in (ACTIVE, PREVIOUS, FACTORY):
        install(store, release.version, release.sha256)
    install(store, "1.0.0")
    store.journal("birds").save(SETTLED)
    return store


def versions(home: Path) -> set[str]:
    return {path.name for path in home.iterdir() if path.is_dir()}


NAMED = {ACTIVE.version, PREVIOUS.version, FACTORY.version}


def test_what_nothing_names_goes(settled: Store, home: Path) -> None:
    settled.collect("birds")
    assert versions(home) == NAMED
    assert settled.journal("birds").load() == Loaded(SETTLED, ACTIVE)


def test_what_only_the_copy_names_stays(settled: Store, home: Path) -> None:
    settled.journal("birds").save(replace(SETTLED, previous=None))
    settled.collect("birds")
    assert versions(home) == NAMED
    settled.journal("birds").save(replace(SETTLED, previous=None, serial=1))
    settled.collect("birds")
    assert versions(home) == NAMED - {PREVIOUS.version}


def test_what_is_under_way_stays(settled: Store, home: Path) -> None:
    install(settled, "1.4.0")
    settled.journal("birds").save(under_way(State.VALIDATING))
    settled.collect("birds")
    assert versions(home) == NAMED | {"1.4.0"}


def test_a_forgotten_release_makes_room_for_another_of_its_version(
    settled: Store, home: Path
) -> None:
    install(settled, "1.4.0", sha("forgotten"))
    settled.journal("birds").save(under_way(State.VERIFYING))
    settled.collect("birds")
    install(settled, "1.4.0")


def test_what_a_kill_left_goes(settled: Store, tmp_path: Path, home: Path) -> None:
    dying = Store(tmp_path, WatchedFiles().die_at(4), spare_bytes=0)
    with pytest.raises(PowerCutError):
        install(dying, "1.4.0")
    assert ".1.4.0.new" in versions(home)
    (home / ".1.2.0.gone").mkdir()
    (home / f".{STATE}.tmp").write_bytes(b"half")
    settled.collect("birds")
    assert {path.name for path in home.iterdir()} == {STATE, *NAMED}


def test_what_is_not_ours_stays(settled: Store, tmp_path: Path, home: Path) -> None:
    (home / "notes.txt").write_text("mine")
    (home / "backup").mkdir()
    (home / DAMAGED).write_bytes(b"x")
    settled.install("cats", "1.0.0", sha("1.0.0"), 100, filler())
    settled.collect("birds")
    settled.collect("dogs")
    assert versions(home) == NAMED | {"backup"}
    assert (home / "notes.txt").exists()
    assert (home / DAMAGED).exists()
    settled.check("cats", "1.0.0", sha("1.0.0"))


@pytest.mark.parametrize("content", [None, b"damaged", newer(SETTLED)])
def test_without_a_readable_journal_all_versions_stay(
    settled: Store, home: Path, content: bytes | None
) -> None:
    (home / ".1.4.0.new").mkdir()
    if content is None:
        (home / STATE).rename(home / COPY)
    else:
        (home / STATE).write_bytes(content)
    settled.collect("birds")
    assert versions(home) == NAMED | {"1.0.0"}


def test_with_a_copy_of_a_newer_edged_all_versions_stay(settled: Store, home: Path) -> None:
    (home / COPY).write_bytes(newer(SETTLED))
    settled.collect("birds")
    assert versions(home) == NAMED | {"1.0.0"}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_disk_that_errs_does_not_empty_itself(
    settled: Store, home: Path, damage: Callable[[Path], object]
) -> None:
    damage(home / ACTIVE.version)
    settled.collect("birds")
    assert {path.name for path in home.iterdir()} == {STATE, *NAMED}


def test_downloads_that_nobody_wants(store: Store) -> None:
    wanted, other = sha("1.4.0"), sha("1.5.0")
    store.clear_staging({wanted})
    store.staging.mkdir()
    ours = ["", ".part", ".part.json"]
    for digest in (wanted, other):
        for end in ours:
            (store.staging / f"{digest}{end}").write_bytes(b"x")
        (store.staging / f".{digest}.part.json.tmp").write_bytes(b"x")
    (store.staging / "mine").mkdir()
    store.clear_staging({wanted})
    left = {path.name for path in store.staging.iterdir()}
    assert left == {"mine", f".{wanted}.part.json.tmp", *(f"{wanted}{end}" for end in ours)}


# Room


def test_no_room_is_said_before_anything_is_written(tmp_path: Path) -> None:
    files = WatchedFiles()
    store = Store(tmp_path, files, spare_bytes=10**15)
    assert store.free_bytes() == 0
    with pytest.raises(StoreError) as caught:
        install(store, "1.0.0")
    assert caught.value.reason == "disk_full"
    assert not [step for step in files.steps if step.kind == "write"]
    assert Store(tmp_path).free_bytes() > 0


def test_a_disk_that_is_really_full(small_disk: SmallDisk) -> None:
    folder = small_disk.folder
    store = Store(folder, spare_bytes=0)
    install(store, "1.0.0")
    store.journal("birds").save(SETTLED)
    assert 0 < store.free_bytes() < 2**20
    before = read_tree(folder)
    big = {"model.tflite": bytes(2**20)}
    with pytest.raises(StoreError) as caught:  # the size was told wrongly
        install(store, "1.1.0", contents=big)
    assert caught.value.reason == "disk_full"
    with pytest.raises(StoreError) as caught:
        store.install("birds", "1.1.0", sha("1.1.0"), 2**20, fill=lambda _: pytest.fail("filled"))
    assert caught.value.reason == "disk_full"
    assert read_tree(folder) == before

    small_disk.fill()
    with pytest.raises(StoreError) as caught:
        store.journal("birds").save(LATER)
    assert caught.value.reason == "disk_full"
    small_disk.empty()
    assert read_tree(folder) == before
    store.journal("birds").save(LATER)
    assert store.journal("birds").load() == Loaded(LATER, ACTIVE)
