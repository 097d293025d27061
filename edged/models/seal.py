"""The file SHA256SUMS in the directory of an installed version: what belongs there. Pure.

`sha256sum -c SHA256SUMS` checks a directory by hand. The first line says whose it is, the last
one is the digest of those before it, so that a damaged list is not taken for another release.
Whoever changes this format raises the journal's schema too: an older edged must not collect what
it takes for damaged.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass

SEAL = "SHA256SUMS"
_FIRST = re.compile(r"# ([a-z0-9_-]{1,64}) ([0-9A-Za-z.+-]{1,64}) ([0-9a-f]{64})")
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9._-]{0,63})")


@dataclass(frozen=True, slots=True)
class Seal:
    """What a directory holds.

    Attributes:
        model: whose.
        version: of the model; also the directory's name.
        sha256: of the package, or of the bare files; see `bare_digest`.
        files: name to SHA-256 of all files but the seal.
    """

    model: str
    version: str
    sha256: str
    files: Mapping[str, str]


def encode_seal(seal: Seal) -> bytes:
    """Return the content of SHA256SUMS."""
    lines = [f"# {seal.model} {seal.version} {seal.sha256}"]
    lines += [f"{digest}  {name}" for name, digest in sorted(seal.files.items())]
    body = "".join(f"{line}\n" for line in lines).encode()
    return body + f"# {hashlib.sha256(body).hexdigest()}\n".encode()


def parse_seal(data: bytes) -> Seal | None:
    """Return what `encode_seal` was given, or None where these bytes are anything else."""
    body, mark, digest = data.rpartition(b"# ")
    if not mark or digest != f"{hashlib.sha256(body).hexdigest()}\n".encode():
        return None
    first, *rest = body.decode("ascii", "replace").splitlines() or [""]
    head, lines = _FIRST.fullmatch(first), [_LINE.fullmatch(line) for line in rest]
    if head is None or None in lines:
        return None
    return Seal(head[1], head[2], head[3], {line[2]: line[1] for line in lines if line})


def bare_digest(contents: Mapping[str, bytes]) -> str:
    """Return what bare files are known by: one by its digest, several by that of their list.

    So a changed sibling for the Edge TPU, or changed labels, make another factory model.

    Args:
        contents: by name, at least one.
    """
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
