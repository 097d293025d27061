"""A fleet folded from messages, and what follows from it: no broker needed."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.errors import OperatorError
from edged.models.desired import Desired, Source, encode_desired, in_rollout
from edged.models.journal import Journal
from edged.mqtt.messages import (
    DeviceInfo,
    ModelState,
    Versions,
    VersionState,
    encode_info,
    encode_model_state,
)
from edged.mqtt.updates import encode_error, encode_progress, encode_state
from edged.operator.fleetplan import (
    CANCELED,
    To,
    Vigil,
    addressed,
    failed_percent,
    order_after,
    outranked,
    raised,
    some,
    wanted,
)
from edged.operator.fleetscreen import fleet_rows, fleet_values
from edged.operator.fleetview import Fleet

NOW_MS = 1_763_683_200_000
DAY_MS = 24 * 3600 * 1000


def take(fleet: Fleet, tail: str, message: object) -> object:
    payload = message if isinstance(message, bytes) else json.dumps(message).encode()
    return fleet.take(f"home/edged/{tail}", payload)


def state(an_id: str, word: str, version: str = "1.4.0", reason: str = "", seq: int = 1) -> dict:
    return {"deployment_id": an_id, "version": version, "state": word, "seq": seq,
            "reason": reason}  # fmt: skip


def result(an_id: str, word: str, version: str = "1.4.0", reason: str = "", detail="why") -> dict:
    return {"deployment_id": an_id, "version": version, "status": word, "reason": reason,
            "detail": detail}  # fmt: skip


def fleet_of(*devices: str, online: bool = True, groups: tuple[str, ...] = ()) -> Fleet:
    fleet = Fleet("home/edged")
    for device in devices:
        add(fleet, device, online=online, groups=groups)
    return fleet


def add(fleet: Fleet, device: str, *, online: bool = True, groups: tuple[str, ...] = ()) -> None:
    info = DeviceInfo(Versions("0.1.0", "3.11", "litert 2"), "Pi", groups=groups)
    release = VersionState("1.3.0", "a" * 64, 1.0)
    take(fleet, f"{device}/available", b"online" if online else b"offline")
    take(fleet, f"{device}/info", encode_info(info))
    take(fleet, f"{device}/model/birds", encode_model_state(ModelState("birds", release)))


def test_what_devices_say_is_read_as_they_write_it() -> None:
    fleet = fleet_of("porch", groups=("garden",))

    device = fleet.devices["porch"]
    assert (device.online, device.edged, device.groups) == (True, "0.1.0", ("garden",))
    assert device.models["birds"].active == "1.3.0"
    assert take(fleet, "porch/update/birds/state", encode_state(Journal("birds"))) is None
    said = take(fleet, "porch/update/birds/progress", encode_progress("d1", 30, 120))
    assert (said.word, said.percent, said.deployment_id) == ("DOWNLOADING", 25, "d1")
    topic = "home/edged/porch/update/birds/desired"
    said = take(fleet, "porch/error", encode_error(topic, "id_reused", "d1 stands"))
    assert (said.model, said.reason, said.about) == ("birds", "id_reused", topic)
    assert fleet.ignored == 0


def test_a_deployment_ends_with_its_state_and_its_result_says_why() -> None:
    fleet = fleet_of("porch")
    take(fleet, "porch/update/birds/state", state("d1", "TRIAL"))
    assert fleet.ending("porch", "birds", "d1") is None
    take(fleet, "porch/update/birds/state", state("d1", "REJECTED", reason="golden_failed"))
    ended = fleet.ending("porch", "birds", "d1")
    assert (ended.word, ended.reason, ended.detail) == ("REJECTED", "golden_failed", "")
    take(fleet, "porch/update/birds/result", result("d1", "REJECTED", reason="golden_failed"))
    assert fleet.ending("porch", "birds", "d1").detail == "why"
    # The retained state comes again with the next connection: the result is kept.
    take(fleet, "porch/update/birds/state", state("d1", "REJECTED", reason="golden_failed"))
    assert fleet.ending("porch", "birds", "d1").detail == "why"
    take(fleet, "porch/update/birds/state", state("d2", "COMMITTED"))
    assert fleet.ending("porch", "birds", "d2").word == "SUCCEEDED"
    assert fleet.ending("porch", "birds", "d1").word == "REJECTED"


def test_what_a_device_left_by_itself_has_not_succeeded() -> None:
    fleet = fleet_of("porch")
    take(fleet, "porch/update/birds/result", result("d1", "SUCCEEDED"))
    take(fleet, "porch/update/birds/state", state("d1", "COMMITTED"))
    assert fleet.ending("porch", "birds", "d1").word == "SUCCEEDED"
    take(fleet, "porch/update/birds/state", state("auto-1", "ROLLED_BACK", "1.3.0"))
    assert fleet.ending("porch", "birds", "d1").word == "SUCCEEDED"
    take(
        fleet,
        "porch/update/birds/state",
        state("auto-2", "ROLLING_BACK", "1.4.0", "active_crashed"),
    )
    ended = fleet.ending("porch", "birds", "d1")
    assert (ended.word, ended.reason) == ("ROLLED_BACK", "active_crashed")


def test_cleared_messages_take_things_away() -> None:
    fleet = fleet_of("porch", "shed")
    take(fleet, "@all/update/birds/desired", encode_desired(Desired("d1", "1.4.0", NOW_MS)))
    take(fleet, "@all/update/birds/desired", b"")
    take(fleet, "porch/model/birds", b"")
    take(fleet, "shed/available", b"")
    take(fleet, "porch/info", b"")
    take(fleet, "porch/update/birds/state", b"")

    assert not fleet.desired
    assert list(fleet.devices) == ["porch"]
    assert not fleet.devices["porch"].models
    assert fleet.ignored == 0


HOSTILE = [
    b"\x00\xff\xfe",
    b"not json",
    b"[]",
    b"1e999",
    b'{"a":' * 20_000,
    b"x" * 5_000_000,
    b'{"versions":{"edged":["x"]},"groups":"all"}',
    b'{"active":7,"previous":"1.0.0","latest":{}}',
    '{"deployment_id":"\x1b]0;pwned\x07","version":"\x9b2J","state":"\u202e","status":["x"]}'.encode(),
]
TAILS = ["available", "info", "stats", "error", "model/birds", "update/birds/state",
         "update/birds/progress", "update/birds/result", "update/birds/desired"]  # fmt: skip
NAMES = [
    "porch",
    "\x1b[2J\x1b]0;pwned\x07",
    "a b",
    "",
    "@all",
    "@\x1b[31m",
    "x" * 65,
    "+",
    "\u202ex",
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tail", TAILS)
def test_hostile_messages_are_passed_over(name: str, tail: str) -> None:
    fleet = Fleet("home/edged")
    for payload in HOSTILE:
        take(fleet, f"{name}/{tail}", payload)
        fleet.take(f"home/{name}/{tail}", payload)
        fleet.take(f"{name}/{tail}", payload)

    shown = [
        *fleet_rows(fleet, list(fleet.devices), None),
        [str(fleet_values(fleet, [*fleet.devices], None))],
    ]
    assert all(cell.isprintable() for row in shown for cell in row)
    assert set(fleet.devices) <= {"porch"}
    assert not fleet.desired


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*TAILS, "update//state", "model/", "model/a/b", "x"]) | st.text(),
            st.sampled_from(["porch", "@all"]) | st.text(max_size=5),
            st.binary(max_size=40)
            | st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                lambda inner: st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(
                        ["deployment_id", "version", "state", "status", "active", "versions",
                         "edged", "groups", "latest", "topic", "reason", "bytes", "total"]
                    ),
                    inner,
                    max_size=6,
                ),
            ).map(lambda value: json.dumps(value).encode()),
        ),
        max_size=6,
    )
)  # fmt: skip
def test_nothing_that_arrives_breaks_the_view(messages) -> None:
    fleet = Fleet("home/edged")
    vigil = Vigil("birds", "d1")
    for tail, name, payload in messages:
        said = fleet.take(f"home/edged/{name}/{tail}", payload)
        if said is not None:
            vigil.hear(said)
            assert all(str(value).isprintable() for value in asdict(said).values())
    for row in fleet_rows(fleet, list(fleet.devices), None):
        assert all(cell.isprintable() for cell in row)
    vigil.rows(fleet)


def test_the_view_is_bounded(monkeypatch) -> None:
    monkeypatch.setattr("edged.operator.fleetview.MOST_DEVICES", 5)
    fleet = Fleet("home/edged")
    for number in range(20):
        take(fleet, f"d{number}/available", b"online")
        take(fleet, f"d0/model/m{number}", {"active": None})
        take(fleet, f"d{number}/update/birds/desired", encode_desired(Desired("d1", "1.0.0")))
        take(fleet, f"d0/model/n{number + 100}", {"active": None})
    for number in range(100):
        take(fleet, "d0/model/many" + str(number), {"active": None})
        take(fleet, "d0/update/m1/result", result(f"d{number}", "SUCCEEDED"))

    assert (len(fleet.devices), len(fleet.desired)) == (5, 5)
    assert len(fleet.devices["d0"].models) == 64
    assert len(fleet.devices["d0"].models["m1"].endings) == 64


# Whom it is for.


def test_a_group_is_who_says_so_and_has_the_model() -> None:
    fleet = fleet_of("porch", "shed", groups=("garden",))
    add(fleet, "hall")
    take(fleet, "yard/available", b"online")
    take(fleet, "yard/model/cars", {"active": None})

    assert addressed(fleet, To(group="garden"), "birds") == ("porch", "shed")
    assert addressed(fleet, To(), "birds") == ("hall", "porch", "shed")
    assert addressed(fleet, To(("later",)), "birds") == ("later",)
    assert To(("a", "b")).topics("p", "m") == ("p/a/update/m/desired", "p/b/update/m/desired")
    assert To(group="garden").topics("p", "m") == ("p/@garden/update/m/desired",)
    assert [to.source for to in (To(("a",)), To(group="g"), To())] == list(Source)


def test_narrower_sources_decide() -> None:
    fleet = fleet_of("porch", groups=("garden",))
    held = encode_desired(Desired("d1", "1.0.0"))
    take(fleet, "@garden/update/birds/desired", held)
    assert outranked(fleet, "porch", "birds", Source.ALL) == "@garden"
    assert outranked(fleet, "porch", "birds", Source.GROUP) == ""
    take(fleet, "porch/update/birds/desired", held)
    assert outranked(fleet, "porch", "birds", Source.GROUP) == "porch"
    assert outranked(fleet, "porch", "birds", Source.DEVICE) == ""
    assert outranked(fleet, "porch", "cars", Source.ALL) == ""
    take(fleet, "porch/update/birds/desired", encode_desired(Desired("d2", None)))
    assert outranked(fleet, "porch", "birds", Source.GROUP) == ""


# Waiting.


def test_one_waits_for_those_who_are_online_have_a_share_and_decide_no_other_way() -> None:
    an_id = "d1"
    inside = [f"in{n}" for n in range(40) if in_rollout(an_id, f"in{n}", 50)][:3]
    outside = next(f"out{n}" for n in range(40) if not in_rollout(an_id, f"out{n}", 50))
    fleet = fleet_of(*inside, outside)
    take(fleet, f"{inside[1]}/available", b"offline")
    take(fleet, f"{inside[2]}/update/birds/desired", encode_desired(Desired("other", "1.0.0")))
    vigil = Vigil("birds", an_id, To(), percent=50)

    assert [row.device for row in vigil.rows(fleet)] == [inside[0]]
    assert vigil.offline(fleet) == [inside[1]]
    # Who comes takes part from then on, also while it restarts.
    take(fleet, f"{inside[1]}/available", b"online")
    assert len(vigil.rows(fleet)) == 2
    take(fleet, f"{inside[1]}/available", b"offline")
    words = [row.word for row in vigil.rows(fleet)]
    assert sorted(words) == ["offline", "waiting"]
    assert Vigil("birds", an_id, To((inside[1],)), insist=True).rows(fleet)[0].word == "offline"


def test_a_vigil_is_over_when_all_have_ended() -> None:
    fleet = fleet_of("porch", "shed")
    topic = "home/edged/@all/update/birds/desired"
    vigil = Vigil("birds", "d1", To(), topics=(topic,))
    take(fleet, "porch/update/birds/progress", encode_progress("d1", 1, 2))
    take(fleet, "porch/update/birds/state", state("d1", "DOWNLOADING"))
    take(fleet, "porch/update/birds/progress", encode_progress("d1", 1, 2))
    rows = vigil.rows(fleet)
    assert [(row.word, row.percent) for row in rows] == [("DOWNLOADING", 50), ("waiting", None)]
    assert not vigil.over(rows)
    take(fleet, "porch/update/birds/state", state("d1", "COMMITTED", seq=2))
    vigil.hear(take(fleet, "shed/error", encode_error("elsewhere", "id_reused", "x")))
    assert not vigil.over(vigil.rows(fleet))
    vigil.hear(take(fleet, "shed/error", encode_error(topic, "id_reused", "x")))
    rows = vigil.rows(fleet)
    assert vigil.over(rows)
    assert [(row.word, row.good) for row in rows] == [("SUCCEEDED", True), ("REFUSED", False)]
    assert failed_percent(rows) == 50.0
    assert failed_percent([]) == 0.0


def test_what_is_meant_depends_on_what_was_asked() -> None:
    fleet = fleet_of("porch")
    take(fleet, "porch/update/birds/state", state("d1", "ROLLED_BACK", reason="canceled"))

    assert not Vigil("birds", "d1", To()).rows(fleet)[0].good
    assert Vigil("birds", "d1", To(), CANCELED).rows(fleet)[0].good


def test_without_a_list_one_waits_for_whoever_speaks() -> None:
    fleet = fleet_of("porch", "shed", "hall")
    vigil = Vigil("birds", "d1", expect=2)
    take(fleet, "porch/update/birds/state", state("d1", "COMMITTED"))
    assert not vigil.over(vigil.rows(fleet))
    take(fleet, "shed/update/birds/state", state("d1", "COMMITTED"))
    assert vigil.over(vigil.rows(fleet))
    whoever = Vigil("birds", "d1")
    assert whoever.over(whoever.rows(fleet))
    take(fleet, "hall/update/birds/state", state("d1", "TRIAL"))
    assert not whoever.over(whoever.rows(fleet))
    assert not Vigil("birds", "d2").over(Vigil("birds", "d2").rows(fleet))


# Going on.


def test_a_percentage_is_raised_under_the_same_id() -> None:
    held = Desired("d1", "1.4.0", NOW_MS, 5)

    assert raised(held, 25, NOW_MS + 7) == Desired("d1", "1.4.0", NOW_MS + 7, 25)
    assert wanted(held, "d1") is held
    with pytest.raises(OperatorError) as caught:
        raised(held, 4, NOW_MS)
    assert caught.value.reason == "rollout_lowered"
    assert raised(held, 4, NOW_MS, force=True).percent == 4
    with pytest.raises(OperatorError) as caught:
        wanted(held, "d2")
    assert caught.value.reason == "desired_differs"
    with pytest.raises(OperatorError) as caught:
        wanted(None, "d1")
    assert caught.value.reason == "desired_unknown"


@pytest.mark.parametrize(
    ("held_ms", "expected_ms"),
    [
        (None, NOW_MS),
        (NOW_MS - 5, NOW_MS),
        (NOW_MS, NOW_MS + 1),
        (NOW_MS + 3600_000, NOW_MS + 3600_001),  # a desk whose clock is ahead
        (NOW_MS + DAY_MS + 1, NOW_MS),  # devices have refused it
        (2**63 - 1, NOW_MS),
    ],
)
def test_an_order_is_later_than_what_devices_have(held_ms: int | None, expected_ms: int) -> None:
    assert order_after(Desired("d1", "1.4.0", held_ms), NOW_MS) == expected_ms


def test_no_desired_is_before_any() -> None:
    assert order_after(None, NOW_MS) == NOW_MS


def test_lists_in_sentences_are_short() -> None:
    assert some(["a", "b"]) == "a, b"
    assert some([str(n) for n in range(30)]).endswith("9 and 20 more")
