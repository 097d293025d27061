"""The journal: what it refuses to hold, what it forgets, and its file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from sim.journals import ACTIVE, SETTLED, run_through, sha, under_way, wants

from edged.errors import StoreError
from edged.models.desired import Source
from edged.models.journal import (
    HISTORY,
    LIMIT_BYTES,
    MARKS,
    UNDATED,
    Journal,
    encode_journal,
    parse_journal,
)
from edged.models.records import Crashes, Held, Mark, Origin, Release, Result, State, Status
from edged.models.transitions import TODO


def result(deployment_id: str, **changes: object) -> Result:
    values: dict[str, object] = {
        "deployment_id": deployment_id, "origin": Origin.DESIRED, "version": "1.0.0",
        "sha256": "", "status": Status.FAILED, "reason": "disk_low", "detail": "", "health": "",
        "began_ms": 0, "ended_ms": 1, "reported": True,
    }  # fmt: skip
    return Result(**(values | changes))  # type: ignore[arg-type]


def sealed(body: object) -> bytes:
    """A file with a true digest around any content."""
    text = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
    digest = hashlib.sha256(text).hexdigest().encode()
    return b'{"sha256":"%s","journal":%s}\n' % (digest, text)


def content(journal: Journal) -> dict[str, object]:
    body: dict[str, object] = json.loads(encode_journal(journal))["journal"]
    return body


def full() -> Journal:
    journal = replace(SETTLED, crashes=Crashes(ACTIVE.sha256, 2), serial=3)
    journal = run_through(wants(journal, "old", "1.3.5", order_ms=1)[0])
    journal = journal.holding(Held(Source.ALL, "d0", None, 7, 100))
    return under_way(State.TRIAL, base=journal)


@pytest.mark.parametrize("journal", [Journal("birds"), SETTLED, full(), *map(under_way, TODO)])
def test_a_journal_is_read_as_it_was_written(journal):
    data = encode_journal(journal)
    assert parse_journal(data) == journal
    assert encode_journal(parse_journal(data)) == data
    assert json.loads(data)["journal"]["schema"] == 1


def test_every_flipped_bit_is_damage():
    data = encode_journal(SETTLED)
    for position in range(len(data)):
        for bit in range(8):
            flipped = bytearray(data)
            flipped[position] ^= 1 << bit
            with pytest.raises(StoreError) as caught:
                parse_journal(bytes(flipped))
            assert caught.value.reason == "journal_damaged"


def test_every_part_of_a_file_is_damage():
    data = encode_journal(SETTLED)
    for size in range(len(data)):
        with pytest.raises(StoreError):
            parse_journal(data[:size])
        with pytest.raises(StoreError):
            parse_journal(data[:size].ljust(len(data), b"\0"))
    with pytest.raises(StoreError):
        parse_journal(data + data)


def test_a_later_schema_is_left_alone():
    with pytest.raises(StoreError) as caught:
        parse_journal(sealed(content(SETTLED) | {"schema": 2, "new": [1]}))
    assert caught.value.reason == "journal_newer"


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 0},
        {"schema": None},
        {"schema": True},
        {"schema": "1"},
        {"schema": 1.0},
        {"extra": 1},
        {"model": "../birds"},
        {"model": 5},
        {"seq": -1},
        {"seq": 1.0},
        {"seq": True},
        {"active": []},
        {"active": {"version": "1.0.0", "sha256": "ab" * 32}},
        {"active": {"version": "1.0.0", "sha256": "AB" * 32, "since_ms": 0}},
        {"active": {"version": "1", "sha256": "ab" * 32, "since_ms": 0}},
        {"active": {"version": "1.0.0", "sha256": "ab" * 32, "since_ms": 0, "path": "/"}},
        {"marks": None},
        {"marks": [{"version": "1.0.0", "sha256": "ab" * 32, "bad": 1, "reason": ""}]},
        {"marks": 2 * [{"version": "1.0.0", "sha256": "ab" * 32, "bad": True, "reason": ""}]},
        {"marks": [{"version": "1.0.0", "sha256": "ab" * 32, "bad": True, "reason": "Two words"}]},
        {"crashes": {"sha256": "ab" * 32, "count": 0}},
        {"desired": [{"source": "nobody"}]},
        {"history": {}},
    ],
)
def test_what_cannot_be_is_damage_even_under_a_true_digest(changes):
    with pytest.raises(StoreError) as caught:
        parse_journal(sealed(content(SETTLED) | changes))
    assert caught.value.reason == "journal_damaged"


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("current", {"state": "COMMITTED"}),
        ("current", {"state": "IDLE"}),
        ("current", {"attempts": -1}),
        ("current", {"used_s": 1}),
        ("current", {"used_s": -1.0}),
        ("current", {"sha256": ""}),
        ("current", {"unusable": ["x"]}),
        ("current", {"deployment_id": "old"}),
        ("current", {"boot_id": "x" * 65}),
        ("current", {"detail": "x" * 501}),
        ("current", {"health": "x" * 2049}),
        ("history", {"status": "FAILED"}),
        ("history", {"status": "DONE"}),
        ("history", {"reported": None}),
        ("desired", {"percent": 101}),
        ("desired", {"order_ms": -1}),
        ("desired", {"source": "all"}),
    ],
)
def test_what_a_record_cannot_be_is_damage(part, changes):
    body = content(full())
    record = body[part]
    assert isinstance(record, dict | list)
    target = record[0] if isinstance(record, list) else record
    target.update(changes)
    with pytest.raises(StoreError):
        parse_journal(sealed(body))


@pytest.mark.parametrize(
    "text",
    [b"{}", b'{"schema":1}', b'{"schema":1,"schema":1}', b'{"a":' * 9999 + b"1" + b"}" * 9999],
)
def test_odd_content_under_a_true_digest(text):
    with pytest.raises(StoreError):
        parse_journal(sealed(text))


def test_a_huge_file_is_not_read():
    with pytest.raises(StoreError):
        parse_journal(sealed(b'{"schema":1,"x":"' + b"x" * LIMIT_BYTES + b'"}'))


def test_the_fullest_journal_fits():
    journal = under_way(State.ROLLING_BACK)
    for number in range(MARKS):
        journal = journal.marked(Mark("1.0.0", f"{number:064x}", bad=True, reason="r" * 64))
    for number in range(HISTORY):
        words = {"detail": "\U0001f426" * 500, "health": '"' * 2048, "reason": "r" * 64}
        journal = journal.recorded(result(f"{number}".ljust(64, "x"), **words))
    for number in range(UNDATED):
        journal = journal.hearing_undated(f"d{number}", None)
    data = encode_journal(journal)
    assert len(data) < LIMIT_BYTES
    assert parse_journal(data) == journal


def test_the_oldest_reported_results_are_forgotten_first():
    journal = Journal("birds")
    for number in range(HISTORY):
        journal = journal.recorded(result(f"r{number}", reported=number != 0))
    journal = journal.recorded(result("new"))
    assert journal.result("r0") is not None
    assert journal.result("r1") is None
    assert len(journal.history) == HISTORY


def test_what_a_source_still_wants_is_not_forgotten():
    """Else its re-delivery, or the release of a higher source, would start it a second time."""
    journal = Journal("birds").holding(Held(Source.ALL, "r1", "1.0.0", 5, 100))
    for number in range(HISTORY + 20):
        journal = journal.recorded(result(f"r{number}"))
    assert journal.result("r1") is not None
    assert [past.deployment_id for past in journal.history[:2]] == ["r1", "r21"]


def test_unreported_results_only_go_when_all_are_unreported():
    journal = Journal("birds")
    for number in range(HISTORY + 1):
        journal = journal.recorded(result(f"r{number}", reported=False))
    assert journal.result("r0") is None
    assert len(journal.unreported()) == HISTORY


def test_reporting():
    journal = Journal("birds").recorded(result("a", reported=False))
    journal = journal.recorded(result("b", reported=False))
    assert [past.deployment_id for past in journal.unreported()] == ["a", "b"]
    journal = journal.reported("a").reported("unknown")
    assert [past.deployment_id for past in journal.unreported()] == ["b"]
    assert replace(journal.history[0], reported=False) == result("a", reported=False)


def test_good_marks_make_room_for_bad_ones():
    journal = Journal("birds").marked(Mark("1.0.0", sha("bad"), bad=True, reason="crashed"))
    for number in range(MARKS + 5):
        journal = journal.marked(Mark("1.0.0", f"{number:064x}", bad=False, reason=""))
    assert journal.is_bad(sha("bad"))
    assert len(journal.marks) == MARKS
    journal = journal.marked(Mark("1.0.0", f"{MARKS:064x}", bad=True, reason="crashed"))
    assert journal.is_bad(f"{MARKS:064x}")


def test_what_stays_on_disk():
    journal = under_way(State.DOWNLOADING)
    assert sha("1.4.0") in journal.digests()
    assert len(journal.digests()) == 4
    assert under_way(State.SYNCING).digests() == SETTLED.digests()


def test_a_record_says_what_is_wrong():
    with pytest.raises(ValueError, match="sha256"):
        Release("1.0.0", "x", 0)
