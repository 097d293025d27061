"""The transition table: every state with every event, and who is active afterwards."""

from __future__ import annotations

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
    run_through,
    sha,
    under_way,
    wants,
)

from edged.models.deployment import (
    IllegalTransitionError,
    advance,
    begin,
    fall_back,
    return_to,
    runs,
    spend,
    todo,
)
from edged.models.findings import found, overdue, restored, validated
from edged.models.journal import Journal
from edged.models.records import BEFORE_TRIAL, Mark, Origin, Release, State, Status
from edged.models.transitions import START, TODO, TRANSITIONS, Action, Event, Kind, Reason

S, K = State, Kind
LIVE = tuple(TODO)
# Written down a second time, by hand, one line per state: what may happen, and where it leads.
EXPECTED = {
    S.SYNCING: "trouble:SYNCING found:DOWNLOADING same:COMMITTED refused:REJECTED failed:FAILED"
    " deadline:FAILED cancel:CANCELED supersede:CANCELED release:CANCELED",
    S.DOWNLOADING: "trouble:DOWNLOADING downloaded:VERIFYING failed:FAILED deadline:FAILED"
    " cancel:CANCELED supersede:CANCELED release:CANCELED",
    S.VERIFYING: "verified:VALIDATING refused:REJECTED failed:FAILED deadline:FAILED"
    " cancel:CANCELED supersede:CANCELED release:CANCELED",
    S.VALIDATING: "validated:TRIAL refused:REJECTED broken:REJECTED failed:FAILED deadline:FAILED"
    " cancel:CANCELED supersede:CANCELED release:CANCELED",
    S.TRIAL: "healthy:COMMITTED refused:ROLLING_BACK broken:ROLLING_BACK failed:ROLLING_BACK"
    " cancel:ROLLING_BACK",
    S.ROLLING_BACK: "unusable:ROLLING_BACK restored:ROLLED_BACK",
}
LEGAL = {
    (state, Kind(kind)): State(after)
    for state, line in EXPECTED.items()
    for kind, after in (pair.split(":") for pair in line.split())
}
NEEDS_REASON = {K.TROUBLE, K.REFUSED, K.BROKEN, K.FAILED, K.DEADLINE}


def event(kind: Kind) -> Event:
    reason = "some_reason" if kind in NEEDS_REASON else ""
    return Event(kind, reason, sha256=sha("1.4.0") if kind in {K.FOUND, K.SAME} else "")


def ended(journal: Journal) -> tuple[State | None, str, str]:
    """The state it is in, or the status and reason it ended with."""
    if journal.current is not None:
        return journal.current.state, "", journal.current.reason
    return None, journal.history[-1].status, journal.history[-1].reason


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize("kind", Kind)
def test_every_state_with_every_event(state, kind):
    journal = under_way(state)
    after_state = LEGAL.get((state, kind))
    if after_state is None:
        with pytest.raises(IllegalTransitionError) as caught:
            advance(journal, "d1", event(kind), NOW_MS)
        assert caught.value.reason == "illegal_transition"
        assert journal == under_way(state)
        return

    after = advance(journal, "d1", event(kind), NOW_MS)

    assert after is not journal
    assert journal == under_way(state)
    if after_state in LIVE:
        assert after.current is not None
        assert after.current.state is after_state
        assert not after.history
    else:
        assert after.current is None
        assert [past.deployment_id for past in after.history] == ["d1"]
        assert not after.history[0].reported
    bad = (state, kind) in {(S.VALIDATING, K.BROKEN), (S.TRIAL, K.BROKEN)}
    assert after.is_bad(sha("1.4.0")) is bad
    commits = after_state is S.COMMITTED and state is S.TRIAL
    assert after.active is not None
    assert after.active.version == ("1.4.0" if commits else "1.3.0")


def test_nothing_happens_to_what_has_ended():
    """Terminal states are absorbing: the deployment is no longer there to advance."""
    done = run_through(under_way(S.SYNCING))
    for kind in Kind:
        with pytest.raises(IllegalTransitionError):
            advance(done, "d1", event(kind), NOW_MS)


def test_the_table_has_no_way_out_of_a_terminal_state_and_no_circle():
    assert {state for state, _ in TRANSITIONS} == set(LIVE)
    order = list(State)
    for (state, _), step in TRANSITIONS.items():
        assert order.index(step.next) >= order.index(state)


@pytest.mark.parametrize("state", LIVE)
def test_every_state_can_end(state):
    reached, grown = {state}, True
    while grown:
        more = {step.next for (start, _), step in TRANSITIONS.items() if start in reached}
        grown, reached = not more <= reached, reached | more
    assert reached - set(LIVE)


def test_a_late_word_about_another_deployment_changes_nothing():
    journal = under_way(S.DOWNLOADING)
    with pytest.raises(IllegalTransitionError):
        advance(journal, "d0", Event(K.DOWNLOADED), NOW_MS)


@pytest.mark.parametrize("state", BEFORE_TRIAL)
def test_only_a_new_factory_model_is_adopted(state):
    with pytest.raises(IllegalTransitionError):
        advance(under_way(state), "d1", Event(K.ADOPTED), NOW_MS)


@pytest.mark.parametrize("kind", [K.FOUND, K.SAME])
def test_an_event_without_its_digest_is_refused(kind):
    journal = advance(under_way(S.SYNCING), "d1", event(kind), NOW_MS)
    assert (journal.current or journal.history[0]).sha256 == sha("1.4.0")
    if kind is K.FOUND:
        with pytest.raises(ValueError, match="sha256"):
            advance(under_way(S.SYNCING), "d1", Event(kind), NOW_MS)


@pytest.mark.parametrize(
    ("state", "kind"),
    [(S.SYNCING, K.REFUSED), (S.TRIAL, K.FAILED), (S.TRIAL, K.BROKEN), (S.VALIDATING, K.FAILED)],
)
def test_bad_news_without_a_reason_is_refused(state, kind):
    with pytest.raises(ValueError, match="reason"):
        advance(under_way(state), "d1", Event(kind), NOW_MS)


def test_the_digest_is_settled_once():
    journal = advance(under_way(S.TRIAL), "d1", Event(K.HEALTHY, sha256="ab" * 32), NOW_MS)
    assert journal.active == Release("1.4.0", sha("1.4.0"), NOW_MS)


def test_a_commit_is_one_value():
    journal = advance(under_way(S.TRIAL), "d1", Event(K.HEALTHY, health='{"frames":300}'), NOW_MS)

    assert journal.current is None
    assert journal.active == Release("1.4.0", sha("1.4.0"), NOW_MS)
    assert journal.previous == ACTIVE
    assert journal.factory == FACTORY
    assert journal.marks == (Mark("1.4.0", sha("1.4.0"), bad=False, reason=""),)
    result = journal.history[0]
    assert (result.status, result.reason, result.health) == ("SUCCEEDED", "", '{"frames":300}')
    assert journal.digests() == {sha("1.4.0"), ACTIVE.sha256, FACTORY.sha256}


def test_what_is_active_already_succeeds_and_changes_no_role():
    journal, _ = wants(SETTLED, "d1", "1.3.0")
    journal = advance(journal, "d1", found(journal, ACTIVE.sha256, downgrade_ok=False), NOW_MS)
    assert ended(journal) == (None, "SUCCEEDED", "already_active")
    assert (journal.active, journal.previous) == (ACTIVE, PREVIOUS)
    assert not journal.marks


# What `found` says: version, digest, downgrade_ok, marks, origin.
@pytest.mark.parametrize(
    ("version", "digest", "downgrade_ok", "bad", "origin", "kind", "reason"),
    [
        ("1.4.0", sha("1.4.0"), False, False, Origin.DESIRED, K.FOUND, ""),
        ("1.4.0", sha("1.4.0"), False, True, Origin.DESIRED, K.REFUSED, "marked_bad"),
        ("1.4.0", sha("1.4.0"), True, True, Origin.LOCAL, K.REFUSED, "marked_bad"),
        ("1.3.0", "ab" * 32, True, False, Origin.DESIRED, K.REFUSED, "equivocation"),
        ("1.3.0", "ab" * 32, True, False, Origin.LOCAL, K.REFUSED, "equivocation"),
        ("1.2.0", "ab" * 32, True, False, Origin.DESIRED, K.REFUSED, "equivocation"),
        ("1.2.0", PREVIOUS.sha256, False, False, Origin.DESIRED, K.REFUSED, "downgrade"),
        ("1.2.0", PREVIOUS.sha256, True, False, Origin.DESIRED, K.FOUND, ""),
        ("1.2.0", PREVIOUS.sha256, False, False, Origin.LOCAL, K.FOUND, ""),
        ("1.3.0-rc.1", "ab" * 32, False, False, Origin.DESIRED, K.REFUSED, "downgrade"),
        ("1.3.0+other", "ab" * 32, False, False, Origin.DESIRED, K.FOUND, ""),
        ("1.10.0", "ab" * 32, False, False, Origin.DESIRED, K.FOUND, ""),
    ],
)
def test_what_a_target_means(version, digest, downgrade_ok, bad, origin, kind, reason):
    journal = begin(SETTLED, "d1", origin, version, MOMENT)
    if bad:
        journal = journal.marked(Mark(version, digest, bad=True, reason="crashed"))

    event = found(journal, digest, downgrade_ok=downgrade_ok)

    assert (event.kind, event.reason, event.sha256) == (kind, reason, digest)
    after = advance(journal, "d1", event, NOW_MS)
    assert (after.current is None) is (kind is K.REFUSED)


def test_a_double_refused_does_not_turn_against_the_first():
    """Who can publish once more under an old version must not block the true one."""
    journal, _ = wants(SETTLED, "d1", "1.4.0", order_ms=1)
    journal = advance(journal, "d1", Event(K.FOUND, sha256=sha("1.4.0")), NOW_MS)
    journal = advance(journal, "d1", Event(K.FAILED, "disk_low"), NOW_MS)
    journal, _ = wants(journal, "d2", "1.4.0", order_ms=2)
    double = found(journal, "ab" * 32, downgrade_ok=False)
    assert double.reason == "equivocation"
    journal = advance(journal, "d2", double, NOW_MS)

    journal, _ = wants(journal, "d3", "1.4.0", order_ms=3)

    assert found(journal, sha("1.4.0"), downgrade_ok=False).kind is K.FOUND
    assert found(journal, "ab" * 32, downgrade_ok=False).reason == "equivocation"


def test_an_attempt_that_never_found_its_package_makes_no_double_of_it():
    journal, _ = wants(SETTLED, "d1", "1.4.0", order_ms=1)
    journal = advance(journal, "d1", Event(K.CANCEL), NOW_MS)
    journal, _ = wants(journal, "d2", "1.4.0", order_ms=2)
    assert found(journal, sha("1.4.0"), downgrade_ok=False).kind is K.FOUND


def test_a_lifted_mark_lets_it_in_again():
    journal = SETTLED.marked(Mark("1.4.0", sha("1.4.0"), bad=True, reason="crashed"))
    journal, _ = wants(journal, "d1", "1.4.0")
    assert found(journal, sha("1.4.0"), downgrade_ok=False).reason == "marked_bad"
    assert found(journal.unmarked(sha("1.4.0")), sha("1.4.0"), downgrade_ok=False).kind is K.FOUND


def test_no_model_at_all_is_no_obstacle():
    journal, _ = wants(Journal("birds"), "d1", "1.0.0")
    journal = run_through(journal)
    assert journal.active == Release("1.0.0", sha("1.0.0"), NOW_MS)
    assert journal.previous is None


@pytest.mark.parametrize("kind", [K.REFUSED, K.BROKEN, K.FAILED, K.CANCEL])
def test_a_trial_that_is_rolled_back_leaves_what_was_active(kind):
    journal = advance(under_way(S.TRIAL), "d1", event(kind), NOW_MS)
    assert todo(journal) is Action.RESTORE
    assert return_to(journal) == runs(journal) == ACTIVE
    journal = advance(journal, "d1", restored(journal), NOW_MS)

    assert (journal.active, journal.previous, journal.factory) == (ACTIVE, PREVIOUS, FACTORY)
    assert ended(journal)[1:] == ("ROLLED_BACK", "canceled" if kind is K.CANCEL else "some_reason")
    assert journal.is_bad(sha("1.4.0")) is (kind is K.BROKEN)
    assert journal.history[0].version == "1.4.0"


def test_a_trial_whose_active_model_is_damaged_returns_to_the_next():
    journal = advance(under_way(S.TRIAL), "d1", event(K.REFUSED), NOW_MS)
    returned = []
    while (target := return_to(journal)) is not None:
        returned.append(target.version)
        journal = advance(journal, "d1", Event(K.UNUSABLE), NOW_MS)
    assert returned == [ACTIVE.version, PREVIOUS.version, FACTORY.version]
    with pytest.raises(IllegalTransitionError):
        advance(journal, "d1", Event(K.UNUSABLE), NOW_MS)

    journal = advance(journal, "d1", restored(journal), NOW_MS)

    assert (journal.active, journal.previous) == (None, None)
    assert ended(journal) == (None, "ROLLED_BACK", "some_reason")


def test_a_command_swaps_active_and_previous():
    journal = under_way(S.ROLLING_BACK, Origin.COMMAND)
    assert return_to(journal) == PREVIOUS
    journal = advance(journal, "d1", restored(journal), NOW_MS)

    assert journal.active == replace(PREVIOUS, since_ms=NOW_MS)
    assert journal.previous == ACTIVE
    assert journal.history[0].version == ACTIVE.version
    assert journal.history[0].status is Status.ROLLED_BACK
    assert not journal.marks


def test_a_command_with_nowhere_to_go_stays():
    journal = under_way(S.ROLLING_BACK, Origin.COMMAND)
    for version in (PREVIOUS.version, FACTORY.version):
        target = return_to(journal)
        assert target is not None
        assert target.version == version
        assert restored(journal).kind is K.RESTORED
        journal = advance(journal, "d1", Event(K.UNUSABLE), NOW_MS)
    assert return_to(journal) == ACTIVE
    journal = advance(journal, "d1", restored(journal), NOW_MS)

    assert ended(journal) == (None, "FAILED", "nothing_to_return_to")
    assert journal.active == ACTIVE


@pytest.mark.parametrize("origin", [Origin.DESIRED, Origin.FALLBACK])
def test_only_a_command_is_stranded(origin):
    with pytest.raises(IllegalTransitionError):
        advance(under_way(S.ROLLING_BACK, origin), "d1", Event(K.STRANDED), NOW_MS)


@pytest.mark.parametrize(
    ("reason", "bad"), [(Reason.ACTIVE_CRASHED, True), (Reason.ACTIVE_UNUSABLE, False)]
)
def test_falling_back_by_itself(reason, bad):
    journal = fall_back(under_way(S.DOWNLOADING), reason, "why", MOMENT)
    assert journal.history[0].reason == "superseded"
    assert journal.current is not None
    assert (journal.current.deployment_id, journal.current.version) == ("auto-1", "1.3.0")
    journal = advance(journal, "auto-1", restored(journal), NOW_MS)

    assert journal.active == replace(PREVIOUS, since_ms=NOW_MS)
    assert journal.previous is None
    assert journal.is_bad(ACTIVE.sha256) is bad
    assert ended(journal) == (None, "ROLLED_BACK", reason)

    journal = fall_back(journal, reason, "why", MOMENT)
    journal = advance(journal, "auto-2", restored(journal), NOW_MS)
    assert journal.active is not None
    assert journal.active.version == FACTORY.version

    journal = fall_back(journal, reason, "why", MOMENT)
    assert return_to(journal) is None
    journal = advance(journal, "auto-3", restored(journal), NOW_MS)
    assert journal.active is None
    with pytest.raises(IllegalTransitionError):
        fall_back(journal, reason, "why", MOMENT)


@pytest.mark.parametrize("state", [S.TRIAL, S.ROLLING_BACK])
def test_a_trial_is_not_superseded_by_falling_back(state):
    with pytest.raises(IllegalTransitionError):
        fall_back(under_way(state), Reason.ACTIVE_UNUSABLE, "why", MOMENT)


def test_previous_is_never_a_bad_one():
    journal = under_way(S.TRIAL).marked(Mark("1.3.0", ACTIVE.sha256, bad=True, reason="by_hand"))
    journal = advance(journal, "d1", Event(K.HEALTHY), NOW_MS)
    assert journal.previous is None


@pytest.mark.parametrize("runs_factory", [True, False])
def test_a_new_factory_model_only_replaces_an_active_factory(runs_factory):
    base = replace(SETTLED, active=FACTORY, previous=None) if runs_factory else SETTLED
    journal = under_way(S.VALIDATING, Origin.FACTORY, base)
    event = validated(journal)
    assert event.kind is (K.VALIDATED if runs_factory else K.ADOPTED)
    journal = run_through(advance(journal, "d1", event, NOW_MS))

    assert journal.factory == Release("1.4.0", sha("1.4.0"), NOW_MS)
    assert journal.active == (journal.factory if runs_factory else ACTIVE)
    assert journal.previous == (FACTORY if runs_factory else PREVIOUS)
    assert ended(journal) == (None, "SUCCEEDED", "")


def test_a_new_factory_model_that_fails_its_trial_does_not_become_the_last_resort():
    base = replace(SETTLED, active=FACTORY, previous=None)
    journal = advance(under_way(S.TRIAL, Origin.FACTORY, base), "d1", event(K.BROKEN), NOW_MS)
    journal = advance(journal, "d1", restored(journal), NOW_MS)
    assert journal.factory == journal.active == FACTORY


def test_seconds_add_up_before_the_trial_only():
    journal = under_way(S.SYNCING)
    for state in BEFORE_TRIAL:
        journal = spend(replace(journal, current=under_way(state).current), 1.0)
        assert journal.current is not None
        assert journal.current.used_s == 1.0
    for state in (S.TRIAL, S.ROLLING_BACK):
        assert spend(under_way(state), 1.0) == under_way(state)
    assert spend(SETTLED, 1.0) == SETTLED
    journal = spend(spend(under_way(S.SYNCING), 2.5), -1.0)
    journal = advance(journal, "d1", Event(K.FOUND, sha256=sha("1.4.0")), NOW_MS)
    assert spend(journal, 0.5).current.used_s == 3.0


def test_the_deadline_names_the_last_trouble():
    journal = spend(under_way(S.DOWNLOADING), 86_400)
    assert overdue(journal, 86_401) is None
    assert overdue(journal, 86_400) == Event(K.DEADLINE, "deadline_passed")
    for reason in ("server_error", "too_slow"):
        journal = advance(journal, "d1", Event(K.TROUBLE, reason, "words"), NOW_MS)
    event = overdue(journal, 86_400)
    assert event == Event(K.DEADLINE, "too_slow", "words")
    assert ended(advance(journal, "d1", event, NOW_MS)) == (None, "FAILED", "too_slow")
    assert overdue(under_way(S.TRIAL), 0) is None
    assert overdue(SETTLED, 0) is None


def test_trouble_is_no_transition_and_is_said_when_it_changes():
    journal = under_way(S.SYNCING)
    first = advance(journal, "d1", Event(K.TROUBLE, "clock_unsynced"), NOW_MS)
    assert first.seq == journal.seq + 1
    assert advance(first, "d1", Event(K.TROUBLE, "clock_unsynced"), NOW_MS) == first
    assert first.current.transitions == journal.current.transitions
    ahead = advance(first, "d1", Event(K.FOUND, sha256=sha("1.4.0")), NOW_MS)
    assert ahead.current.reason == ""


def test_a_cancelled_retry_says_cancelled():
    journal = advance(under_way(S.SYNCING), "d1", Event(K.TROUBLE, "server_error", "503"), NOW_MS)
    journal = advance(journal, "d1", Event(K.CANCEL), NOW_MS)
    assert ended(journal) == (None, "CANCELED", "canceled")
    assert journal.history[-1].detail == "it was held up: 503 (server_error)"


def test_a_cancelled_deployment_without_trouble_has_nothing_to_add():
    journal = advance(under_way(S.DOWNLOADING), "d1", Event(K.CANCEL), NOW_MS)
    assert journal.history[-1].detail == ""


def test_seq_counts_what_is_said():
    journal, seen = under_way(S.SYNCING), []
    for kind in (K.FOUND, K.DOWNLOADED, K.VERIFIED, K.VALIDATED, K.REFUSED, K.RESTORED):
        journal = advance(journal, "d1", event(kind), NOW_MS)
        seen.append(journal.seq)
    assert seen == list(range(2, 8))


def test_one_deployment_at_a_time_and_no_id_twice():
    with pytest.raises(IllegalTransitionError):
        begin(under_way(S.SYNCING), "d2", Origin.LOCAL, "1.5.0", MOMENT)
    with pytest.raises(IllegalTransitionError):
        begin(run_through(under_way(S.SYNCING)), "d1", Origin.LOCAL, "1.5.0", MOMENT)


@pytest.mark.parametrize("origin", Origin)
def test_where_each_origin_begins(origin):
    reason = "why" if START[origin] is S.ROLLING_BACK else ""
    journal = begin(SETTLED, "d1", origin, "1.4.0", MOMENT, sha256=sha("1.4.0"), reason=reason)
    assert journal.current is not None
    assert journal.current.state is START[origin]
    assert journal.current.boot_id == BOOT


def test_words_that_are_no_text_are_kept_readable():
    journal = advance(
        under_way(S.SYNCING), "d1", Event(K.FAILED, "disk_low", "file \udcff" + 600 * "x"), NOW_MS
    )
    detail = journal.history[0].detail
    assert detail.startswith("file \\udcff")
    assert len(detail) == 500
