"""What people see: it fits, it says what counts, and nothing in an answer can break it."""

import re
from collections.abc import Callable
from datetime import UTC

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sim.journals import NOW_MS, SETTLED, run_through, under_way, wants

from edged.models import overview
from edged.models.desired import Source
from edged.models.records import State
from edged.views import deployment_lines, model_lines, outcome_line, progress_line, status_lines

STATUS = {
    "state": "running",
    "edged": "0.1.0",
    "device_id": "porch",
    "board": "Raspberry Pi 4 Model B Rev 1.4",
    "uptime_s": 273_840.0,
    "healthy": True,
    "last_stop": "sigterm",
    "versions": {"edged": "0.1.0", "runtime": "litert 2.3.0"},
    "broker": {
        "host": "192.168.1.2",
        "port": 1883,
        "state": "waiting",
        "reason": "broker_unreachable",
        "detail": "Nothing listens on 192.168.1.2:1883. " + "Check host and port. " * 5,
        "for_s": 125.0,
        "protocol": "5",
    },
    "outbox": {"queued": 12, "stored": 12, "dropped": {"full": 0, "stale": 3}, "reason": ""},
    "cameras": [
        {
            "name": "front",
            "state": "streaming",
            "model": "birds",
            "captured": 4107600,
            "published": 4107599,
            "published_per_s": 14.97,
            "invoke_ms": {"p50": 7.6},
            "reason": "",
        },
        {
            "name": "a-camera-with-a-name-that-is-as-long-as-a-name-may-be-which-is-64",
            "state": "waiting",
            "model": "a-model-whose-name-is-long",
            "captured": 0,
            "published": 0,
            "published_per_s": None,
            "invoke_ms": {},
            "reason": "camera_not_found",
            "detail": "there is no /dev/video9. " * 6,
        },
    ],
    "models": [
        {
            "name": "birds",
            "version": "0.0.0-factory-829da726",
            "kind": "classification",
            "accelerator": "edgetpu usb:0",
            "runtime": "tflite-runtime 2.14.0",
            "reason": "",
        }
    ],
}


def journals() -> dict[str, object]:
    journal = run_through(wants(SETTLED, "d7", "1.4.0", order_ms=NOW_MS - 1)[0])
    journal = overview.mark(journal, "1.3.0", bad=True)
    journal = wants(journal, "d9", "1.5.0-rc.1+build.of.a.long.name", order_ms=NOW_MS)[0]
    journal = wants(journal, "d10", None, source=Source.GROUP)[0]
    journal = wants(journal, "d" * 64, "1.6.0", source=Source.ALL, percent=20)[0]
    return {
        "models": [overview.overview(journal), overview.overview(SETTLED)],
        "deployments": overview.deployments(journal),
    }


VIEWS: list[tuple[Callable[..., list[str]], dict[str, object]]] = [
    (status_lines, STATUS),
    (model_lines, journals()),
    (deployment_lines, journals()),
]


@pytest.mark.parametrize("width", [80, 100])
@pytest.mark.parametrize(("view", "answer"), VIEWS)
def test_it_fits_the_terminal(view, answer, width) -> None:
    assert max(len(line) for line in view(answer, width)) <= width


def test_status_says_what_counts() -> None:
    said = "\n".join(status_lines(STATUS, 10_000))

    for words in (
        "edged 0.1.0 runs as porch on Raspberry Pi 4 Model B Rev 1.4, for 3 d 4 h",
        "broker 192.168.1.2:1883 waiting, not connected for 2 min 5 s: Nothing listens",
        "(broker_unreachable)",
        "outbox: 12 waiting, 12 on disk; lost: 3 stale",
        "there is no /dev/video9.",
    ):
        assert words in said
    assert re.search(r"front +streaming +birds +4107600 +4107599 +15\.0 +7\.60", said)
    assert re.search(
        r"birds +0\.0\.0-factory-829da726 +classification +edgetpu usb:0, tflite", said
    )


def test_what_ails_updates_and_journals_is_said() -> None:
    ill = {"reason": "journal_newer", "detail": "of another edged"}
    model = {**STATUS["models"][0], "journal": ill, "reason": ""}  # type: ignore[index]
    off = {"reason": "updates_off", "detail": "there is no root"}
    said = status_lines({**STATUS, "models": [model], "updates": off}, 100)

    assert "updates: there is no root (updates_off)" in said
    assert "    journal: of another edged (journal_newer)" in said
    assert not [line for line in status_lines(STATUS, 100) if line.startswith("updates")]


def test_what_ails_drift_is_said() -> None:
    full = {"reason": "disk_full", "detail": "cannot keep a window"}
    said = status_lines({**STATUS, "drift": full}, 100)

    assert "drift: cannot keep a window (disk_full)" in said
    assert not [line for line in status_lines(STATUS, 100) if line.startswith("drift")]


def test_a_configuration_that_is_not_used_is_said() -> None:
    wrong = {"reason": "model_missing", "detail": "there is no model file of this name"}
    said = status_lines({**STATUS, "configuration": wrong}, 200)

    assert (
        "The configuration on disk is not used: there is no model file of this name (model_missing)"
    ) in said
    assert not [line for line in status_lines(STATUS, 100) if line.startswith("The configuration")]


def test_what_is_coming_is_said() -> None:
    coming = {
        "model": "birds",
        "version": "1.4.0",
        "state": "SYNCING",
        "reason": "not_published",
        "detail": "birds 1.4.0 is not in the repository",
    }
    said = status_lines({**STATUS, "deployments": [coming]}, 200)
    words = "birds 1.4.0 is coming: SYNCING: birds 1.4.0 is not in the repository (not_published)"
    assert said[-1] == words


def test_a_stuck_model_is_said() -> None:
    assert any("stuck" in line for line in status_lines({**STATUS, "healthy": False}, 80))


def test_models_say_what_counts() -> None:
    said = [" ".join(line.split()) for line in model_lines(journals(), 10_000, UTC)]

    for words in (
        "birds",
        "active 1.4.0 312e342e 2025-11-21 00:00",
        "coming 1.5.0-rc.1+build.of.a.long.name SYNCING",
        "wanted nothing by group as d10",
        f"wanted 1.6.0 by all as {'d' * 64}, 20 % of the devices",
        "bad 1.3.0 312e332e marked_by_hand",
        "good 1.4.0 312e342e",
    ):
        assert words in said


def test_deployments_say_what_counts() -> None:
    told = overview.deployments(under_way(State.ROLLING_BACK))

    lines = deployment_lines({"deployments": told}, 80, UTC)

    assert [" ".join(line.split()) for line in lines] == [
        "DEPLOYMENT MODEL VERSION STATE BEGAN",
        "d1 birds 1.4.0 ROLLING_BACK 2025-11-21 00:00",
        "trial_slow: 12 ms against 7",
    ]


def test_progress() -> None:
    step = {"state": "DOWNLOADING", "bytes": 3_400_000, "total": 12_000_000}

    assert progress_line(step) == "DOWNLOADING 3.4 of 12.0 MB"
    assert progress_line({"state": "VALIDATING"}) == "VALIDATING"


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(sorted({*STATUS, "model"})), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*STATUS, "deployments", "deployment"]), ANYTHING))
def test_no_answer_breaks_a_view_or_the_terminal(answer: dict[str, object]) -> None:
    lines = [*status_lines(answer, 80), *model_lines(answer, 80), *deployment_lines(answer, 80)]
    lines += [outcome_line(answer), progress_line(answer)]

    assert all(line.isprintable() for line in lines)


def test_control_characters_stay_out_of_the_terminal() -> None:
    hostile = {"deployments": [{"deployment_id": "d\x1b[2J", "reason": "a\r\nb\u202ec"}]}

    assert all(line.isprintable() for line in deployment_lines(hostile, 80))
