"""Labels: files beside a model, and files in the zip appended behind it. Pure: bytes in, names out.

Three things are packed behind a model: a label file, as TFLite Metadata has it; the metadata of an
Ultralytics export as `metadata.json`; or, from its older exports, the same as a Python dictionary
in `temp_meta.txt` (ultralytics, `engine/exporter.py`) or `meta.txt` (yolov5, `export.py`). The last
two look like label files by name and even by TFLite Metadata, and are told by their content.
The file may be hostile: sizes are bounded, and no Python is parsed.
"""

from __future__ import annotations

import ast
import io
import json
import re
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import Any

from edged.errors import ValidationError

LABELS_LIMIT_BYTES = 4 * 1024 * 1024

# 1000 classes take 30 kB; a hostile object costs many times its size in memory.
_EXPORT_LIMIT_BYTES = 256 * 1024
_EXPORT_FILE = "metadata.json"
# Files that hold the metadata of an export, the newest first.
_EXPORT_FILES = (_EXPORT_FILE, "temp_meta.txt", "meta.txt")
# What zipfile raises for an archive that lists its files and cannot give them: damaged, cut short,
# offsets that lead nowhere, encrypted (RuntimeError), packed in an unknown way (its subclass).
_UNREADABLE = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, ValueError, RuntimeError)

# A string as Python's repr writes it.
_STRING = r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\""""
_NAMES = re.compile(r"""['"]names['"]\s*:\s*([{\[])\s*""")
_NAME = re.compile(rf"(?:(\d{{1,6}})\s*:\s*)?({_STRING})\s*(,?)\s*")
_TASK = re.compile(r"""['"]task['"]\s*:\s*['"]([a-z_]{1,20})['"]""")


def packed_labels(data: bytes, name: str | None) -> tuple[str, ...] | None:
    """Read the labels packed into a model, or return None where there are none.

    Args:
        data: the whole model file.
        name: of the file inside, from `label_file_name`.

    Raises:
        ValidationError: `labels_unreadable` when it is damaged, encrypted, too large or no text.
    """
    if name is None:
        return None
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.getinfo(name).file_size > LABELS_LIMIT_BYTES:
                raise ValidationError(
                    "labels_unreadable", "the label file packed into the model exceeds 4 MiB"
                )
            content = archive.read(name)
    except _UNREADABLE as error:
        raise ValidationError(
            "labels_unreadable", f"the label file packed into the model cannot be read: {error}"
        ) from error
    if content.lstrip().startswith(b"{"):
        return _exported_names(content)
    return parse_labels(content)


def label_file_name(data: bytes, named: Sequence[str]) -> str | None:
    """Choose the label file among those packed into a model, or return None where there is none.

    Args:
        data: the whole model file.
        named: files that TFLite Metadata calls labels, best first; otherwise the only text file
            is taken, otherwise the metadata of an export.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError):
        return None  # no archive behind the model is the usual case
    texts = [name for name in names if name.endswith(".txt")]
    wanted: list[str] = [*named, *(texts if len(texts) == 1 else ()), _EXPORT_FILE]
    return next((name for name in wanted if name in names), None)


def packed_task(data: bytes) -> str | None:
    """Return what an export says that the model is for, or None: `detect`, `segment`, `pose`..."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in _EXPORT_FILES:
                if name in archive.namelist():
                    if archive.getinfo(name).file_size > _EXPORT_LIMIT_BYTES:
                        return None
                    found = _TASK.search(archive.read(name).decode("utf-8", "replace"))
                    return found[1] if found else None
    except _UNREADABLE:
        return None  # `packed_labels` says so when it is asked for the labels
    return None


def parse_labels(content: bytes) -> tuple[str, ...]:
    """Read a label file: UTF-8, one label per line, blank lines at the end ignored.

    A leading `12 ` or `12: ` on every line, as older label files have it, is taken off.

    Raises:
        ValidationError: `labels_unreadable` when it is no UTF-8 text.
    """
    labels = [line.strip() for line in _decode(content).splitlines()]
    while labels and not labels[-1]:
        labels.pop()
    numbered = [label.partition(":" if ":" in label.split(" ")[0] else " ") for label in labels]
    if labels and all(head == str(i) and tail for i, (head, _, tail) in enumerate(numbered)):
        return tuple(tail.strip() for _, _, tail in numbered)
    return tuple(labels)


def _decode(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValidationError("labels_unreadable", "the label file is no UTF-8 text") from error


def _exported_names(content: bytes) -> tuple[str, ...] | None:
    """Return the `names` in the metadata of an export, or None where it has none."""
    if len(content) > _EXPORT_LIMIT_BYTES:
        raise ValidationError(
            "labels_unreadable", "the metadata packed into the model exceeds 256 KiB"
        )
    text = _decode(content)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError):
        names = _names_in_python(text)
    else:
        names = whole.get("names")
        if isinstance(names, list):
            names = dict(enumerate(names))
    if names is None:
        return None
    if isinstance(names, dict):
        labels = {str(number): label for number, label in names.items()}
        if all(isinstance(labels.get(str(i)), str) for i in range(len(names))):
            return tuple(labels[str(i)].strip() for i in range(len(names)))
    raise ValidationError(
        "labels_unreadable",
        "the names in the metadata packed into the model are no list of numbered classes",
    )


def _names_in_python(text: str) -> dict[Any, str] | None:
    """Read `'names': {0: 'cat', ...}` or `[...]` out of a dictionary in Python's notation.

    Only the strings themselves are given to Python's reader: a whole expression of hostile nesting
    could exhaust its stack.

    Raises:
        ValidationError: `labels_unreadable`.
    """
    start = _NAMES.search(text)
    if start is None:
        return None
    end, at = ("}" if start[1] == "{" else "]"), start.end()
    names: dict[Any, str] = {}
    while found := _NAME.match(text, at):
        number = int(found[1]) if found[1] is not None else len(names)
        names[number] = _python_string(found[2])
        at = found.end()
        if not found[3]:
            break
    if text[at : at + 1] != end:
        raise ValidationError(
            "labels_unreadable", "the names in the metadata packed into the model are damaged"
        )
    return names


def _python_string(literal: str) -> str:
    try:
        return str(ast.literal_eval(literal))
    except (ValueError, SyntaxError) as error:
        raise ValidationError(
            "labels_unreadable", "a name in the metadata packed into the model is damaged"
        ) from error
