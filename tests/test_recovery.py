"""After a start: every state under every way the last run can have ended."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from sim.journals import (
    ACTIVE,
    BOOT,
    FACTORY,
    MOMENT,
    NOW_MS,
    PREVIOUS,
    SETTLED,
    in_state,
    run_through,
    sha,
    under_way,
)

from edged.models.deployment import advance, return_to, runs, todo
from edged.models.findings import restored
from edged.models.journal import Journal
from edged.models.records import BEFORE_TRIAL, Mark, Origin, State
from edged.models.recovery import MOST_TRANSITIONS, RECOVERY, BootFacts, healthy, recover
from edged.models.transitions import TODO, Action, Event, Kind

S = State
CANDIDATE = sha("1.4.0")
OTHER_BOOT = "b0070002-0000-4000-8000-000000000002"
CRASH = BootFacts(BOOT, clean_stop=False, blamed_sha256=ACTIVE.sha256)
ANONYMOUS = BootFacts(BOOT, clean_stop=False, blamed_sha256=None)
POWER_CUT = BootFacts(OTHER_BOOT, clean_stop=False, blamed_sha256=None)
STOPPED = BootFacts(BOOT, clean_stop=True, blamed_sha256=None)


def expected(
    state: State,
    same_boot: bool,
    clean: bool,
    blamed: str | None,
    attempts: int,
    interruptions: int,
) -> tuple[State | None, int, int, str, bool]:
    """State, attempts, interruptions, reason and mark afterwards, as design section 6 words it."""
    on_candidate = same_boot and not clean and blamed == CANDIDATE
    if state in {S.VERIFYING, S.VALIDATING} and not clean:
        if attempts + 1 >= 2:
            return None, 0, 0, "interrupted", False
        return state, attempts + 1, interruptions, "", False
    if state is S.TRIAL and on_candidate:
        if attempts + 1 >= 2:
            return S.ROLLING_BACK, 0, 0, "trial_crashed", True
        return state, attempts + 1, interruptions, "", False
    if state is S.TRIAL and not clean:
        if interruptions + 1 >= 5:
            return S.ROLLING_BACK, 0, 0, "interrupted", False
        return state, attempts, interruptions + 1, "", False
    reason = "trial_slow" if state is S.ROLLING_BACK else ""
    return state, attempts, interruptions, reason, False


@pytest.mark.parametrize("state", TODO)
@pytest.mark.parametrize("same_boot", [True, False])
@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("blamed", [None, CANDIDATE, ACTIVE.sha256, "ab" * 32])
def test_every_state_and_every_end(state, same_boot, clean, blamed):
    for attempts, interruptions in itertools.product(range(3), range(6)):
        before = in_state(under_way(state), attempts=attempts, interruptions=interruptions)
        boot = BootFacts(BOOT if same_boot else OTHER_BOOT, clean, blamed)

        after = recover(before, boot, NOW_MS)

        wanted = expected(state, same_boot, clean, blamed, attempts, interruptions)
        new_state, new_attempts, new_interruptions, reason, bad = wanted
        assert (after.active, after.previous, after.factory) == (ACTIVE, PREVIOUS, FACTORY)
        assert after.is_bad(CANDIDATE) is bad
        assert len(after.marks) == bad
        if new_state is None:
            assert after.current is None
            assert (after.history[0].status, after.history[0].reason) == ("FAILED", reason)
            continue
        now = after.current
        assert now is not None
        assert (now.state, now.attempts, now.interruptions, now.reason) == (
            new_state, new_attempts, new_interruptions, reason,
        )  # fmt: skip
        moved = new_state is not state
        assert now.transitions == before.current.transitions + (2 if moved else 1)
        assert now.boot_id == boot.boot_id
        counts = not clean and same_boot and blamed == ACTIVE.sha256
        assert (after.crashes is not None) is counts


def test_the_table_covers_every_state_that_can_be_found():
    assert set(RECOVERY) == set(TODO)


def test_nothing_under_way_is_left_alone():
    for boot in (STOPPED, POWER_CUT, ANONYMOUS):
        assert recover(SETTLED, boot, NOW_MS) == SETTLED
        done = run_through(under_way(S.SYNCING))
        assert recover(done, boot, NOW_MS) == done


def test_an_empty_journal_is_left_alone():
    for boot in (STOPPED, POWER_CUT, ANONYMOUS, CRASH):
        assert recover(Journal("birds"), boot, NOW_MS) == Journal("birds")


def test_an_unreported_result_is_still_to_be_told():
    done = run_through(under_way(S.SYNCING))
    again = recover(done, POWER_CUT, NOW_MS)
    assert again.unreported() == done.unreported() != ()


@pytest.mark.parametrize("state", TODO)
def test_too_many_transitions(state):
    journal = in_state(under_way(state), transitions=MOST_TRANSITIONS - 1)
    journal = recover(journal, STOPPED, NOW_MS)
    assert journal.current is not None
    assert journal.current.state is state

    journal = recover(journal, STOPPED, NOW_MS)

    if state in BEFORE_TRIAL:
        assert (journal.history[0].status, journal.history[0].reason) == (
            "FAILED",
            "too_many_transitions",
        )
    elif state is S.TRIAL:
        assert todo(journal) is Action.RESTORE
        journal = recover(journal, STOPPED, NOW_MS)
        assert (journal.history[0].status, journal.history[0].reason) == (
            "ROLLED_BACK",
            "too_many_transitions",
        )
    else:
        assert journal.history[0].status == "ROLLED_BACK"
    assert journal.current is None
    assert journal.active == ACTIVE
    assert not journal.marks


@pytest.mark.parametrize("state", TODO)
@pytest.mark.parametrize("boot", [STOPPED, POWER_CUT, ANONYMOUS, CRASH])
def test_nothing_but_restarts_always_comes_to_an_end(state, boot):
    journal = under_way(state)
    for turn in range(60):
        if boot is POWER_CUT:
            journal = recover(journal, replace(boot, boot_id=f"boot-{turn}"), NOW_MS)
        else:
            journal = recover(journal, boot, NOW_MS)
        if journal.current is not None:
            assert journal.current.transitions <= MOST_TRANSITIONS + 2
    assert journal.current is None or journal.current.origin is Origin.FALLBACK
    assert [past.deployment_id for past in journal.history].count("d1") == 1


def crash(journal: Journal, times: int = 1) -> Journal:
    """What runs takes the process down, and nothing else happens."""
    for _ in range(times):
        running = runs(journal)
        assert running is not None
        journal = recover(journal, BootFacts(BOOT, False, running.sha256), NOW_MS)
    return journal


def settle(journal: Journal) -> Journal:
    assert journal.current is not None
    return advance(journal, journal.current.deployment_id, restored(journal), NOW_MS)


def test_three_crashes_after_a_commit_then_previous_then_factory_then_none():
    journal = crash(SETTLED, 2)
    assert journal.current is None
    assert journal.active == ACTIVE
    seen = []
    for crashes in (1, 3, 3):
        journal = crash(journal, crashes)
        assert todo(journal) is Action.RESTORE
        journal = settle(journal)
        seen.append(journal.active.version if journal.active else None)
    assert seen == [PREVIOUS.version, FACTORY.version, None]
    assert [(r.deployment_id, r.version, r.status, r.reason) for r in journal.history] == [
        ("auto-1", ACTIVE.version, "ROLLED_BACK", "active_crashed"),
        ("auto-2", PREVIOUS.version, "ROLLED_BACK", "active_crashed"),
        ("auto-3", FACTORY.version, "ROLLED_BACK", "active_crashed"),
    ]
    assert all(journal.is_bad(release.sha256) for release in (ACTIVE, PREVIOUS, FACTORY))
    assert runs(journal) is None
    assert recover(journal, CRASH, NOW_MS) == journal


def test_a_healthy_minute_forgives():
    journal = healthy(crash(SETTLED, 2))
    assert journal == SETTLED
    assert healthy(SETTLED) is SETTLED
    journal = crash(journal, 2)
    assert journal.active == ACTIVE


@pytest.mark.parametrize(
    "boot", [STOPPED, ANONYMOUS, POWER_CUT, replace(CRASH, clean_stop=True),
             BootFacts(BOOT, clean_stop=False, blamed_sha256="ab" * 32)]
)  # fmt: skip
def test_other_ends_never_blame_the_active_model(boot):
    journal = SETTLED
    for _ in range(50):
        journal = recover(journal, boot, NOW_MS)
    assert journal == SETTLED


def test_crashes_of_another_model_do_not_add_up():
    journal = crash(SETTLED, 2)
    journal = run_through(under_way(S.SYNCING, base=journal))
    journal = crash(journal, 2)
    assert journal.current is None
    assert crash(journal).current is not None


@pytest.mark.parametrize("state", BEFORE_TRIAL)
def test_the_active_model_crashes_while_another_is_on_its_way(state):
    """What runs comes first: the attempt gives way to falling back."""
    journal = in_state(crash(under_way(state)), attempts=0)
    journal = crash(in_state(crash(journal), attempts=0))
    assert journal.history[0].reason == "superseded"
    assert journal.current.deployment_id == "auto-1"
    assert settle(journal).active.version == PREVIOUS.version


def test_the_active_model_crashes_during_a_trial():
    """That is no verdict on the candidate; after the trial the count goes on."""
    journal = crash(under_way(S.TRIAL), 4)
    assert journal.current.state is S.TRIAL
    assert not journal.marks
    journal = crash(journal)
    assert (journal.current.state, journal.current.reason) == (S.ROLLING_BACK, "interrupted")
    assert not journal.is_bad(CANDIDATE)
    journal = crash(journal)
    assert journal.is_bad(ACTIVE.sha256)
    assert return_to(journal) == PREVIOUS
    assert settle(journal).active.version == PREVIOUS.version


def test_what_a_roll_back_returns_to_crashes():
    """Killed in recovery, over and over: the next in the row is taken, and it ends."""
    journal = crash(SETTLED, 3)
    assert return_to(journal) == PREVIOUS
    journal = crash(journal, 2)
    assert return_to(journal) == PREVIOUS
    journal = crash(journal)
    assert journal.is_bad(PREVIOUS.sha256)
    assert return_to(journal) == FACTORY
    journal = crash(journal, 3)
    assert return_to(journal) is None
    journal = settle(journal)
    assert journal.active is None
    assert [past.deployment_id for past in journal.history] == ["auto-1"]


def test_a_command_to_a_version_that_crashes_stays_where_it_was():
    journal = crash(under_way(S.ROLLING_BACK, Origin.COMMAND), 3)
    assert return_to(journal) == FACTORY
    journal = crash(journal, 3)
    assert return_to(journal) == ACTIVE
    journal = settle(journal)
    assert (journal.history[0].status, journal.history[0].reason) == (
        "FAILED",
        "nothing_to_return_to",
    )
    assert journal.active == ACTIVE


def test_a_command_that_ends_by_the_bound_does_not_claim_what_is_not_so():
    journal = under_way(S.ROLLING_BACK, Origin.COMMAND, Journal("birds", active=ACTIVE))
    journal = recover(in_state(journal, transitions=MOST_TRANSITIONS), STOPPED, NOW_MS)
    assert journal.history[0].status == "FAILED"
    assert journal.active == ACTIVE


def test_five_power_cuts_in_a_trial():
    journal = under_way(S.TRIAL)
    for turn in range(4):
        boot = BootFacts(f"boot-{turn}", clean_stop=False, blamed_sha256=None)
        journal = recover(journal, boot, NOW_MS)
        assert todo(journal) is Action.TRY
    committed = advance(journal, "d1", Event(Kind.HEALTHY), NOW_MS)
    assert committed.active.version == "1.4.0"
    journal = recover(journal, BootFacts("boot-5", False, None), NOW_MS)
    journal = settle(journal)
    assert (journal.history[0].status, journal.history[0].reason) == ("ROLLED_BACK", "interrupted")
    assert not journal.marks
    assert journal.active == ACTIVE


def test_thirty_clean_restarts_in_a_trial_blame_nobody():
    journal = under_way(S.TRIAL)
    for _ in range(30):
        journal = recover(journal, STOPPED, NOW_MS)
    assert todo(journal) is Action.TRY
    assert (journal.current.attempts, journal.current.interruptions) == (0, 0)


def test_a_crash_of_before_the_last_boot_is_forgotten():
    """The breadcrumb is in memory; one that says otherwise is not believed."""
    journal = under_way(S.TRIAL)
    for boot_id in ("boot-1", "boot-2", "boot-3"):
        journal = recover(journal, BootFacts(boot_id, False, CANDIDATE), NOW_MS)
    assert (journal.current.attempts, journal.current.interruptions) == (0, 3)


def test_a_marked_release_is_not_returned_to():
    journal = SETTLED.marked(Mark("1.2.0", PREVIOUS.sha256, bad=True, reason="by_hand"))
    assert settle(crash(journal, 3)).active.version == FACTORY.version


def test_the_moment_is_that_of_the_start():
    journal = crash(SETTLED, 3)
    assert journal.current.began_ms == NOW_MS
    assert journal.current.boot_id == MOMENT.boot_id
