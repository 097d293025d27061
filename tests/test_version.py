"""Versions: the order of Semantic Versioning, and nothing else is one."""

from __future__ import annotations

import itertools

import pytest

from edged.models.version import Version

# The example of semver.org, clause 11, between the lowest and the next.
RISING = [
    "0.0.0-factory-00000000", "0.0.0", "0.9.0", "1.0.0-alpha", "1.0.0-alpha.1",
    "1.0.0-alpha.beta", "1.0.0-beta", "1.0.0-beta.2", "1.0.0-beta.11", "1.0.0-rc.1", "1.0.0",
    "1.0.1", "1.2.0", "1.10.0", "2.0.0",
]  # fmt: skip


@pytest.mark.parametrize(("low", "high"), list(itertools.combinations(RISING, 2)))
def test_precedence(low, high):
    assert Version(low) < Version(high)
    assert not Version(high) < Version(low)


def test_build_metadata_tells_apart_and_does_not_order():
    one, other = Version("1.0.0+a"), Version("1.0.0+b")
    assert one != other
    assert not one < other
    assert not other < one


def test_a_factory_file_is_below_every_release():
    assert Version.factory("9f86d081" + "0" * 56) == Version("0.0.0-factory-9f86d081")


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.0", "v1.0.0", "1.0.0 ", "1.0.0\n", "01.0.0", "1.0.0-01", "1.0.0-é", "\uff11.0.0",
     "1\u0661.0.0", "1.0.0-rc.1\n", "1.0.0+", "1.0.0/..", "1.0.0-" + "a" * 59, "9" * 6000 + ".0.0"],
)  # fmt: skip
def test_what_is_no_version(text):
    with pytest.raises(ValueError, match=r"."):
        Version(text)


def test_64_characters_are_enough():
    assert str(Version("1.0.0-" + "a" * 58)) == "1.0.0-" + "a" * 58
