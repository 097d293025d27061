"""Packages to test with: sound ones, and everything about them that can be made unsound."""

from __future__ import annotations

import hashlib
import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from edged.models.golden import Golden, write_golden

NAME, VERSION = "colours", "1.4.0"


class PlainStorage:
    """The file system as `unpack` wants it, without durability."""

    def reserve(self, path: Path, size_bytes: int) -> None:
        with path.open("xb") as file:
            file.truncate(size_bytes)

    def write_at(self, path: Path, offset_bytes: int, data: bytes) -> None:
        with path.open("r+b") as file:
            os.pwrite(file.fileno(), data, offset_bytes)

    def fsync(self, path: Path) -> None:
        assert path.is_file()

    def fsync_dir(self, directory: Path) -> None:
        assert directory.is_dir()


def contents(**changes: bytes | None) -> dict[str, bytes]:
    """Return the files of a sound package, its model aside, which is only bytes."""
    shape = (2, 1, 4, 4, 3)
    inputs = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
    outputs = np.array([[[250, 1, 2, 3]], [[1, 250, 2, 3]]], np.uint8)
    files: dict[str, bytes | None] = {
        "model.tflite": b"\x18\0\0\0TFL3" + bytes(range(256)) * 4,
        "labels.txt": b"red\ngreen\nblue\ndark\n",
        "golden.npz": write_golden(Golden((inputs,), (outputs,))),
    }
    files |= {name.replace("__", "."): content for name, content in changes.items()}
    return {name: content for name, content in files.items() if content is not None}


def facts(files: Mapping[str, bytes], **changes: Any) -> dict[str, Any]:
    """Return the manifest of these files as JSON has it; a change to None stays null."""
    return {
        "schema": 1,
        "name": NAME,
        "version": VERSION,
        "task": "classification",
        "files": {
            name: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
            for name, content in files.items()
        },
        "input": {"shape": [1, 4, 4, 3], "dtype": "uint8", "color": "rgb", "resize": "stretch"},
        "output": {"head": "softmax"},
        "labels": 4,
        "golden": {"samples": 2, "top1": ["red", "green"], "made_with": "litert 2.3.0"},
        "created": "2026-11-20T12:00:00Z",
    } | changes


def encoded(manifest: Mapping[str, Any]) -> bytes:
    return json.dumps(manifest).encode()


@dataclass(frozen=True)
class Part:
    """One entry of a zip, with every lie that a zip can tell.

    Attributes:
        name: in the directory.
        content: unpacked.
        local: what its own header has instead, by field.
        central: what the directory has instead.
        packed: the bytes that stand in the archive instead.
    """

    name: bytes
    content: bytes
    method: int = 8
    flags: int = 0
    attributes: int = 0o100644 << 16
    local: Mapping[str, Any] | None = None
    central: Mapping[str, Any] | None = None
    packed: bytes | None = None
    local_extra: bytes = b""
    central_extra: bytes = b""
    comment: bytes = b""
    gap: bytes = b""


def deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(data) + packer.flush()


def archive(
    parts: list[Part],
    *,
    prefix: bytes = b"",
    before_directory: bytes = b"",
    suffix: bytes = b"",
    comment: bytes = b"",
    end: Mapping[str, int] | None = None,
) -> bytes:
    """Return a zip of these parts, offsets counted from its true start."""
    body, directory = bytearray(prefix), bytearray()
    for part in parts:
        packed = part.packed
        if packed is None:
            packed = deflate(part.content) if part.method == 8 else part.content
        honest: dict[str, Any] = {
            "name": part.name,
            "flags": part.flags,
            "method": part.method,
            "crc": zlib.crc32(part.content),
            "packed": len(packed),
            "size": len(part.content),
        }
        here, there = honest | dict(part.local or {}), honest | dict(part.central or {})
        offset = (part.central or {}).get("offset", len(body))
        body += struct.pack(
            "<4s5H3L2H", b"PK\3\4", 20, here["flags"], here["method"], 0, 33,
            here["crc"], here["packed"], here["size"], len(here["name"]), len(part.local_extra),
        )  # fmt: skip
        body += here["name"] + part.local_extra + packed + part.gap
        directory += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 0x314, 20, there["flags"], there["method"], 0, 33,
            there["crc"], there["packed"], there["size"], len(there["name"]),
            len(part.central_extra), len(part.comment), 0, 0, part.attributes, offset,
        )  # fmt: skip
        directory += there["name"] + part.central_extra + part.comment
    body += before_directory
    values = {"here": len(parts), "count": len(parts), "length": len(directory), "at": len(body)}
    values |= {"disk": 0, "first_disk": 0} | dict(end or {})
    body += directory
    body += struct.pack(
        "<4s4H2LH", b"PK\5\6", values["disk"], values["first_disk"], values["here"],
        values["count"], values["length"], values["at"], len(comment),
    )  # fmt: skip
    return bytes(body + comment + suffix)


def parts(manifest: bytes | None = None, files: Mapping[str, bytes] | None = None) -> list[Part]:
    """Return the parts of a sound package, the manifest first."""
    files = contents() if files is None else files
    manifest = encoded(facts(files)) if manifest is None else manifest
    return [
        Part(b"manifest.json", manifest),
        *(Part(name.encode(), content) for name, content in files.items()),
    ]


def with_part(index: int, **changes: Any) -> bytes:
    """Return a package of which one part is changed; 1 is the model."""
    made = parts()
    made[index] = replace(made[index], **changes)
    return archive(made)
