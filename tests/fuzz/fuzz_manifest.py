"""Fuzz target: manifest.json. Anything but a manifest must be a VerifyError, and quickly.

With atheris: `python tests/fuzz/fuzz_manifest.py -max_total_time=600`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from fuzz.runner import run, variations
from sim import packages

from edged.errors import VerifyError
from edged.models.manifest import encode_manifest, parse_manifest


def TestOneInput(data: bytes) -> None:  # noqa: N802  # the name that atheris asks for
    try:
        manifest = parse_manifest(data)
    except VerifyError:
        return
    assert parse_manifest(encode_manifest(manifest)) == manifest


def corpus() -> list[bytes]:
    return variations(packages.encoded(packages.facts(packages.contents())))


if __name__ == "__main__":
    run(TestOneInput, corpus())
