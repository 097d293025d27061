"""Waiting for what becomes of a deployment, and widening it step by step while all is well."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edged.errors import OperatorError
from edged.operator.fleetdesk import Desk
from edged.operator.fleetplan import Row, Vigil, failed_percent, some

# Details of a failure come with the result, which follows the state.
_RESULT_S = 1.0
# Not at every message: looking at ten thousand devices takes a while.
_LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Patience:
    """How to wait for devices.

    Attributes:
        limit_s: at most so long for each step.
        show: called with how it stands, whenever that may have changed.
    """

    limit_s: float
    show: Callable[[Sequence[Row]], None]


def follow(desk: Desk, vigil: Vigil, patience: Patience) -> list[Row]:
    """Wait until a deployment has ended on all devices that take part, or time is up."""
    limit_mono_s = time.monotonic() + patience.limit_s
    while True:
        for said in desk.heard():
            vigil.hear(said)
        with desk.fleet() as fleet:
            rows = vigil.rows(fleet)
        patience.show(rows)
        now_mono_s = time.monotonic()
        if vigil.over(rows):
            if all(row.good or row.detail for row in rows):
                return rows
            limit_mono_s = min(limit_mono_s, now_mono_s + _RESULT_S)
        if now_mono_s >= limit_mono_s:
            return rows
        desk.listen(min(_LOOK_S, limit_mono_s - now_mono_s))


def staged(
    desk: Desk,
    vigil: Vigil,
    steps: Sequence[int],
    patience: Patience,
    *,
    raise_to: Callable[[int], None],
    pause_s: float,
    most_failed: float,
    say: Callable[[str], None],
    untried: bool = False,
) -> list[Row]:
    """Widen a rollout step by step, as long as few enough devices fail.

    After each step but the last it waits for the devices of the step, then for `pause_s`, then
    looks at them once more: what was committed may have been left since.

    Args:
        desk: to do it at.
        vigil: over the deployment; its percentage is set here.
        steps: percentages, rising.
        patience: for each step; who has not ended by then has failed.
        raise_to: sends a percentage.
        pause_s: between two steps.
        most_failed: percent of the devices that may fail.
        say: called with a sentence.
        untried: go up to the last step even if nobody took part in the steps before.

    Raises:
        OperatorError: `rollout_stopped`, `rollout_untried`.
    """
    rows: list[Row] = []
    for step in steps:
        if step == steps[-1] and len(steps) > 1 and not rows and not untried:
            raise OperatorError(
                "rollout_untried",
                f"not raised to {step} %: nobody took part in the steps before.",
                advice="With few devices larger steps are needed; --force goes on without.",
            )
        raise_to(step)
        vigil.percent = step
        rows = follow(desk, vigil, patience)
        _judge(rows, step, most_failed)
        good = sum(row.good for row in rows)
        told = f"{good} of {len(rows)} devices SUCCEEDED" if rows else "no device takes part"
        say(f"{step} %: {told}.")
        if step != steps[-1] and rows and pause_s:
            say(f"Waiting {pause_s / 60:g} min before the next step.")
            desk.listen(pause_s)
            rows = follow(desk, vigil, patience)
            _judge(rows, step, most_failed)
    return rows


def _judge(rows: Sequence[Row], step: int, most_failed: float) -> None:
    share = failed_percent(rows)
    if share > most_failed:
        bad = [f"{row.device} {row.word} {row.reason}".strip() for row in rows if not row.good]
        raise OperatorError(
            "rollout_stopped",
            f"stopped at {step} %: {len(bad)} of {len(rows)} devices failed: {some(bad)}.",
            advice="No further device was told.",
        )
