"""Runs a fuzz target: under atheris where it is installed, else once over its corpus."""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def variations(sound: bytes, count: int = 40) -> list[bytes]:
    """Return a sound input, cuts of it, and copies with some bytes changed; always the same."""
    generator = random.Random(1)
    made = [b"", sound, sound + b"\0", sound[: len(sound) // 2], sound[1:]]
    for _ in range(count):
        changed = bytearray(sound)
        for _ in range(generator.randrange(1, 5)):
            changed[generator.randrange(len(changed))] = generator.randrange(256)
        made.append(bytes(changed))
    return made


def run(target: Callable[[bytes], None], corpus: list[bytes]) -> None:
    """Run a target as the arguments of the program say."""
    if "--corpus-only" not in sys.argv:
        import atheris

        # Only a folder seeds the search.
        with tempfile.TemporaryDirectory() as folder:
            for number, data in enumerate(corpus):
                (Path(folder) / str(number)).write_bytes(data)
            atheris.instrument_all()
            atheris.Setup([*sys.argv, folder], target)
            atheris.Fuzz()
    for data in corpus:
        target(data)
    print(f"{len(corpus)} inputs")
