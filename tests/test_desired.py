"""What outsiders send: taken when it is right, else refused by name, and never a crash."""

from __future__ import annotations

import hashlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim.messages import MALFORMED, but, without

from edged.errors import MessageError
from edged.models.desired import (
    ID,
    OWN_IDS,
    Address,
    Cancel,
    Desired,
    RollBack,
    Source,
    addresses,
    encode_command,
    encode_desired,
    in_rollout,
    parse_command,
    parse_desired,
)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (but(), Desired("d1", "1.4.0", 5, 10)),
        (without("order", "rollout"), Desired("d1", "1.4.0", None, 100)),
        (but(version=None), Desired("d1", None, 5, 10)),
        (but(schema=1), Desired("d1", "1.4.0", 5, 10)),
        (but(note="\U0001f426", nested={"deployment_id": 1}), Desired("d1", "1.4.0", 5, 10)),
        (but(rollout={"percent": 0, "phase": "a"}), Desired("d1", "1.4.0", 5, 0)),
        (but(order=2**62), Desired("d1", "1.4.0", 2**62, 10)),
        (but(version="1.4.0-rc.1+build.7"), Desired("d1", "1.4.0-rc.1+build.7", 5, 10)),
        (b" \r\n\t" + but() + b"\n", Desired("d1", "1.4.0", 5, 10)),
        (but(deployment_id="A" * 64), Desired("A" * 64, "1.4.0", 5, 10)),
        (but(deployment_id="automatic"), Desired("automatic", "1.4.0", 5, 10)),
    ],
)
def test_what_is_right_is_taken(payload, expected):
    assert parse_desired(payload) == expected


@pytest.mark.parametrize("number", range(len(MALFORMED)))
def test_what_is_wrong_is_refused_by_name(number):
    with pytest.raises(MessageError) as caught:
        parse_desired(MALFORMED[number])
    assert caught.value.reason == "message_malformed"
    assert len(str(caught.value)) < 400
    str(caught.value).encode("utf-8")


def test_the_ways_to_be_wrong_are_many_and_different():
    assert len(set(MALFORMED)) == len(MALFORMED) >= 60


@pytest.mark.parametrize("parse", [parse_desired, parse_command])
@pytest.mark.parametrize("size", [64 * 1024 + 1, 5_000_000])
def test_what_is_too_large_is_refused_before_it_is_read(parse, size, monkeypatch):
    def never(*args: object, **kwargs: object) -> None:
        pytest.fail("it was parsed")

    monkeypatch.setattr(json, "loads", never)
    with pytest.raises(MessageError) as caught:
        parse(but().ljust(size))
    assert caught.value.reason == "message_too_large"


def test_64_kib_are_read():
    assert parse_desired(but().ljust(64 * 1024)).deployment_id == "d1"


@pytest.mark.parametrize("reserved", ["auto-1", "local-1", "factory-f0f0f0f0"])
def test_ids_of_the_device_itself_are_not_given_from_outside(reserved):
    with pytest.raises(MessageError) as caught:
        parse_desired(but(deployment_id=reserved))
    assert caught.value.reason == "id_reserved"
    with pytest.raises(MessageError) as caught:
        parse_command(b'{"id":"%s","action":"rollback","from_version":"1.0.0"}' % reserved.encode())
    assert caught.value.reason == "id_reserved"


def command(**fields: object) -> bytes:
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (command(id="c1", action="cancel", deployment_id="d1"), Cancel("c1", "d1")),
        (
            command(id="c1", action="cancel", deployment_id="factory-f0f0f0f0"),
            Cancel("c1", "factory-f0f0f0f0"),
        ),
        (command(id="c1", action="rollback", from_version="1.4.0"), RollBack("c1", "1.4.0")),
    ],
)
def test_commands(payload, expected):
    assert parse_command(payload) == expected


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        command(),
        command(id="c1"),
        command(id="c1", action="reboot"),
        command(id="c1", action=["cancel"]),
        command(id="c1", action=None, deployment_id="d1"),
        command(id="c1", action="cancel"),
        command(id="c1", action="cancel", deployment_id=1),
        command(id="", action="cancel", deployment_id="d1"),
        command(action="cancel", deployment_id="d1"),
        command(id="c1", action="rollback"),
        command(id="c1", action="rollback", from_version="1"),
        command(id="c1", action="rollback", from_version=None),
        command(id="c1", action="rollback", from_version="1.4.0", schema=2),
    ],
)
def test_malformed_commands(payload):
    with pytest.raises(MessageError) as caught:
        parse_command(payload)
    assert caught.value.reason == "message_malformed"


def test_a_percentage_is_the_published_formula():
    digest = hashlib.sha256(b"d1:porch").hexdigest()
    bucket = int(digest[:8], 16) % 100
    assert not in_rollout("d1", "porch", bucket)
    assert in_rollout("d1", "porch", bucket + 1)


def test_raising_a_percentage_only_adds_devices():
    devices = [f"device-{n}" for n in range(500)]
    inside = [{d for d in devices if in_rollout("d1", d, percent)} for percent in range(101)]
    assert inside[0] == set()
    assert inside[100] == set(devices)
    assert all(fewer <= more for fewer, more in itertools.pairwise(inside))
    assert 25 < len(inside[10]) < 80
    assert inside[10] != {d for d in devices if in_rollout("d2", d, 10)}


def test_topics_to_subscribe_to():
    known = addresses("home/edged", "porch", ["garden", "all"], ["birds", "cars"])

    assert known["home/edged/porch/update/birds/desired"] == Address(
        "birds", Source.DEVICE, "desired"
    )
    assert known["home/edged/@garden/update/cars/desired"].source is Source.GROUP
    assert known["home/edged/@all/update/cars/desired"].source is Source.ALL
    assert known["home/edged/porch/update/cars/command"].kind == "command"
    assert len(known) == 8
    assert not any(sign in topic for topic in known for sign in "+#")


IDS = st.from_regex(ID, fullmatch=True).filter(lambda text: not text.startswith(OWN_IDS))
VERSIONS = st.from_regex(r"[0-9]\.[1-9][0-9]{0,3}\.0(-rc\.[1-9])?(\+[a-z]{1,8})?", fullmatch=True)


@given(
    st.builds(
        Desired,
        IDS,
        st.none() | VERSIONS,
        st.none() | st.integers(1, 2**63 - 1),
        st.integers(0, 100),
    )
)
def test_what_the_desk_writes_is_what_a_device_reads(desired: Desired):
    assert parse_desired(encode_desired(desired)) == desired


@given(st.builds(Cancel, IDS, IDS) | st.builds(RollBack, IDS, VERSIONS))
def test_commands_of_the_desk_are_what_a_device_reads(command: Cancel | RollBack):
    assert parse_command(encode_command(command)) == command


@pytest.mark.parametrize(
    "desired",
    [
        Desired("d1", "1.4"),
        Desired("-d1", "1.4.0"),
        Desired("auto-1", "1.4.0"),
        Desired("d1", "1.4.0", 0),
        Desired("d1", "1.4.0", 2**63),
        Desired("d1", "1.4.0", 2**64),
        Desired("d1", "1.4.0", 5, 101),
        Desired("\ud800", "1.4.0"),
    ],
)
def test_the_desk_does_not_write_what_a_device_refuses(desired: Desired):
    with pytest.raises(MessageError):
        encode_desired(desired)


def test_the_desk_does_not_write_commands_that_a_device_refuses():
    for command in (Cancel("", "d1"), Cancel("c1", "d 1"), RollBack("auto-1", "1.0.0")):
        with pytest.raises(MessageError):
            encode_command(command)
