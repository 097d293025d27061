"""A file system that records, fails and dies on demand, and what a power cut may leave of it.

`WatchedFiles` works on the real disk and writes down each primitive. `aftermath` takes that
record and works out, for every moment, the trees that the disk may hold after the power went:
content that no fsync covered and names that no fsync_dir covered may be missing, alone, in
pairs, all, and in random subsets. Unlike kill -9, this sees a forgotten fsync.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from edged.models.files import Files

# What a directory holds: path relative to it -> content, or None for a directory.
Tree = dict[str, bytes | None]


class PowerCutError(BaseException):
    """The process is dead: no handler of errors runs on, no cleaning-up works."""


@dataclass(frozen=True)
class Step:
    """One primitive that changes the disk."""

    kind: str
    path: Path
    target: Path | None = None
    data: bytes = b""
    number: int = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.path.name}" + (f" -> {self.target.name}" if self.target else "")


class WatchedFiles(Files):
    """The real file system, watched.

    Attributes:
        steps: the primitives done so far that change the disk.
        calls: all primitives begun so far, reading ones as well.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.calls = 0
        self._fail: dict[int, int] = {}
        self._die: int | None = None
        self._torn = False
        self._kill = False
        self._dead = False

    def fail_at(self, call: int, code: int) -> WatchedFiles:
        """Let the n-th call from now, counted from 0 and reading ones too, raise this errno."""
        self._fail[self.calls + call] = code
        return self

    def die_at(self, step: int, *, torn: bool = False, kill: bool = False) -> WatchedFiles:
        """Let the process die before the n-th change from now.

        Args:
            step: n, from 0.
            torn: a write dies in its middle.
            kill: by a real SIGKILL, not only by what is raised.
        """
        self._die = len(self.steps) + step
        self._torn = torn
        self._kill = kill
        return self

    def _call(self, path: Path) -> None:
        if self._dead:
            raise PowerCutError
        code = self._fail.pop(self.calls, None)
        self.calls += 1
        if code is not None:
            raise OSError(code, os.strerror(code), str(path))

    def _step(self, step: Step, half: Callable[[], None] = lambda: None) -> None:
        if self._die == len(self.steps) and not self._dead:
            self._dead = True
            if self._torn:
                half()
            if self._kill:
                os.kill(os.getpid(), signal.SIGKILL)
        self._call(step.path)
        self.steps.append(step)

    def read(self, path: Path) -> bytes:
        self._call(path)
        return super().read(path)

    def sha256(self, path: Path) -> str:
        self._call(path)
        return super().sha256(path)

    def free_bytes(self, directory: Path) -> int:
        self._call(directory)
        return super().free_bytes(directory)

    def names(self, directory: Path) -> list[str]:
        self._call(directory)
        return super().names(directory)

    def mkdir(self, directory: Path) -> None:
        self._step(Step("mkdir", directory))
        super().mkdir(directory)

    def write(self, path: Path, data: bytes, mode: int | None = None) -> None:
        plain = super().write
        half = data[: len(data) // 2]
        self._step(Step("write", path, data=data), lambda: plain(path, half, mode))
        plain(path, data, mode)

    def write_at(self, path: Path, offset_bytes: int, data: bytes) -> None:
        plain = super().write_at
        self._step(
            Step("write_at", path, data=data, number=offset_bytes),
            lambda: plain(path, offset_bytes, data[: len(data) // 2]),
        )
        plain(path, offset_bytes, data)

    def reserve(self, path: Path, size_bytes: int) -> None:
        self._step(Step("reserve", path, number=size_bytes))
        super().reserve(path, size_bytes)

    def fsync(self, path: Path) -> None:
        self._step(Step("fsync", path))

    def fsync_dir(self, directory: Path) -> None:
        self._step(Step("fsync_dir", directory))

    def rename(self, source: Path, target: Path) -> None:
        self._step(Step("rename", source, target))
        super().rename(source, target)

    def remove(self, path: Path) -> None:
        self._step(Step("remove", path))
        super().remove(path)

    def rmdir(self, directory: Path) -> None:
        self._step(Step("rmdir", directory))
        super().rmdir(directory)


def read_tree(directory: Path) -> Tree:
    """What a directory holds now; links are followed."""
    return {
        str(path.relative_to(directory)): None if path.is_dir() else path.read_bytes()
        for path in sorted(directory.rglob("*"))
    }


def write_tree(tree: Tree, directory: Path) -> None:
    """Lay a tree out in an empty or new directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name in sorted(tree):
        content = tree[name]
        if content is None:
            (directory / name).mkdir()
        else:
            (directory / name).write_bytes(content)


# The model: directories map names to inodes, files are bytes. An effect is what one primitive
# does to content, or to names; it is pending until something syncs it.

_Inode = int
_Names = list[tuple[_Inode, str, _Inode | None]]


@dataclass
class _Effect:
    at: int
    names: _Names = field(default_factory=list)
    content: tuple[_Inode, int | None, bytes] | None = None  # inode, offset or None for all, data
    unsynced: set[_Inode] = field(default_factory=set)
    safe_from: int | None = None

    def pending(self, moment: int) -> bool:
        return self.at < moment and (self.safe_from is None or self.safe_from >= moment)


class _Disk:
    """The effects of a record, and the trees that subsets of them make."""

    def __init__(self, root: Path, before: Tree, steps: Sequence[Step]) -> None:
        self._root = root
        self._fresh = itertools.count(1)
        self._start: dict[_Inode, dict[str, _Inode] | bytes] = {0: {}}
        for name in sorted(before):
            content = before[name]
            inode = next(self._fresh)
            self._start[inode] = {} if content is None else content
            parent = self._start[self._find(self._start, Path(name).parent)]
            assert isinstance(parent, dict)
            parent[Path(name).name] = inode
        self.effects: list[_Effect] = []
        # As the running process sees it: nothing is ever lost.
        self._live = self._copy()
        for at, step in enumerate(steps):
            self._play(at, step)

    def _copy(self) -> dict[_Inode, dict[str, _Inode] | bytes]:
        return {
            inode: dict(node) if isinstance(node, dict) else node
            for inode, node in self._start.items()
        }

    @staticmethod
    def _find(nodes: dict[_Inode, dict[str, _Inode] | bytes], path: Path) -> _Inode:
        inode = 0
        for part in path.parts:
            node = nodes[inode]
            assert isinstance(node, dict)
            inode = node[part]
        return inode

    def _inode(self, path: Path) -> _Inode:
        return self._find(self._live, path.relative_to(self._root))

    def _exists(self, path: Path) -> bool:
        try:
            self._inode(path)
        except KeyError:
            return False
        return True

    def _play(self, at: int, step: Step) -> None:
        if step.kind == "forgotten":
            return
        if step.kind in ("fsync", "fsync_dir"):
            self._sync(at, self._inode(step.path))
            return
        entry = (self._inode(step.path.parent), step.path.name)
        if step.kind in ("mkdir", "write", "reserve") and not self._exists(step.path):
            inode = next(self._fresh)
            for nodes in (self._start, self._live):
                nodes[inode] = {} if step.kind == "mkdir" else b""
            self._name(at, [(*entry, inode)])
        if step.kind in ("write", "reserve"):
            data = step.data if step.kind == "write" else b"\0" * step.number
            self._fill(at, self._inode(step.path), None, data)
        elif step.kind == "write_at":
            self._fill(at, self._inode(step.path), step.number, step.data)
        elif step.kind == "rename":
            assert step.target is not None
            moved = self._inode(step.path)
            target = (self._inode(step.target.parent), step.target.name)
            self._name(at, [(*entry, None), (*target, moved)])
        elif step.kind in ("remove", "rmdir"):
            self._name(at, [(*entry, None)])

    def _name(self, at: int, names: _Names) -> None:
        effect = _Effect(at, names=names, unsynced={directory for directory, _, _ in names})
        self.effects.append(effect)
        _apply(self._live, effect, lost=None)

    def _fill(self, at: int, inode: _Inode, offset: int | None, data: bytes) -> None:
        effect = _Effect(at, content=(inode, offset, data), unsynced={inode})
        self.effects.append(effect)
        _apply(self._live, effect, lost=None)

    def _sync(self, at: int, inode: _Inode) -> None:
        for effect in self.effects:
            effect.unsynced.discard(inode)
            if not effect.unsynced and effect.safe_from is None:
                effect.safe_from = at

    def tree(self, moment: int, lost: dict[int, str]) -> Tree:
        """The tree at a moment; `lost` maps numbers of effects to `gone` or `zeros`."""
        nodes = self._copy()
        for number, effect in enumerate(self.effects):
            if effect.at < moment:
                _apply(nodes, effect, lost.get(number))
        tree: Tree = {}
        self._walk(nodes, 0, "", tree)
        return tree

    def _walk(
        self, nodes: dict[_Inode, dict[str, _Inode] | bytes], inode: int, prefix: str, tree: Tree
    ) -> None:
        node = nodes[inode]
        assert isinstance(node, dict)
        for name, child in node.items():
            content = nodes[child]
            tree[prefix + name] = None if isinstance(content, dict) else content
            if isinstance(content, dict):
                self._walk(nodes, child, f"{prefix}{name}/", tree)


def _apply(
    nodes: dict[_Inode, dict[str, _Inode] | bytes], effect: _Effect, lost: str | None
) -> None:
    if lost == "gone" or (lost and effect.names):
        return
    for directory, name, inode in effect.names:
        entries = nodes[directory]
        assert isinstance(entries, dict)
        if inode is None:
            entries.pop(name, None)
        else:
            entries[name] = inode
    if effect.content:
        inode, offset, data = effect.content
        data = b"\0" * len(data) if lost else data
        old = nodes[inode]
        assert isinstance(old, bytes)
        if offset is None:
            nodes[inode] = data
        else:
            nodes[inode] = old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]


@dataclass(frozen=True)
class Wreck:
    """What the disk may hold.

    Attributes:
        tree: it.
        done: how many steps of the record were done.
        story: which ones were lost, for messages.
    """

    tree: Tree
    done: int
    story: str


def aftermath(
    root: Path,
    before: Tree,
    steps: Sequence[Step],
    *,
    promised: Callable[[int], Hashable] | None = None,
    subsets: int = 50,
    seed: int = 1,
) -> Iterator[Wreck]:
    """All distinct trees that a power cut may leave, at every moment of a record.

    Args:
        root: the directory that the steps' paths lie in.
        before: what it held, safely, before the first step.
        steps: as recorded.
        promised: what somebody was told to be safe after so many steps; the same tree may be
            fine before and a loss afterwards. By default: whether all steps were done.
        subsets: random subsets of what is pending, for each moment.
        seed: of those.
    """
    disk = _Disk(root, before, steps)
    chance = random.Random(seed)
    seen = set()
    for moment in range(len(steps) + 1):
        pending = [n for n, effect in enumerate(disk.effects) if effect.pending(moment)]
        for lost in _losses(pending, subsets, chance):
            tree = disk.tree(moment, lost)
            told = promised(moment) if promised else moment == len(steps)
            key = (told, frozenset(tree.items()))
            if key not in seen:
                seen.add(key)
                names = ", ".join(f"{steps[disk.effects[n].at]} {how}" for n, how in lost.items())
                yield Wreck(tree, moment, f"after {moment} steps, lost: {names or 'nothing'}")


def _losses(
    pending: Sequence[int], subsets: int, chance: random.Random
) -> Iterator[dict[int, str]]:
    yield {}
    for how in ("gone", "zeros"):
        for size in (1, 2, len(pending)):
            for some in itertools.combinations(pending, size):
                yield dict.fromkeys(some, how)
    for _ in range(subsets if len(pending) > 2 else 0):
        yield {n: chance.choice(("gone", "zeros")) for n in pending if chance.random() < 0.5}


def each_sync_forgotten(steps: Sequence[Step]) -> Iterator[tuple[Step, list[Step]]]:
    """The record with one fsync or fsync_dir without effect, for each in turn."""
    for number, step in enumerate(steps):
        if step.kind in ("fsync", "fsync_dir"):
            yield step, [*steps[:number], replace(step, kind="forgotten"), *steps[number + 1 :]]
