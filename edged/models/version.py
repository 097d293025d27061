"""Versions of models: Semantic Versioning 2.0. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

import semver

# A version is a directory's name and part of a path in the repository.
MOST_CHARACTERS = 64
_CHARACTERS = re.compile(rf"[0-9A-Za-z.+-]{{1,{MOST_CHARACTERS}}}")


@dataclass(frozen=True, slots=True)
class Version:
    """One version, ordered by precedence: 1.0.0-rc.1 < 1.0.0 < 1.0.1.

    Two that differ in build metadata only (`1.0.0+a`) are different, and neither is lower.

    Attributes:
        text: as it is written everywhere.

    Raises:
        ValueError: `text` is no Semantic Version, or longer than 64 characters.
    """

    text: str

    def __post_init__(self) -> None:
        # The library's early 3.0 takes a newline at the end, and the digits of all scripts.
        if not _CHARACTERS.fullmatch(self.text):
            raise ValueError(f"no version of 1 to {MOST_CHARACTERS} letters, digits, '.', '+', '-'")
        semver.Version.parse(self.text)

    @classmethod
    def factory(cls, sha256: str) -> Self:
        """Return the version under which a factory file with this digest is kept."""
        return cls(f"0.0.0-factory-{sha256[:8]}")

    def __str__(self) -> str:
        return self.text

    def __lt__(self, other: Version) -> bool:
        return semver.Version.parse(self.text).compare(other.text) < 0
