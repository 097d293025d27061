"""Promote, hold or roll back: what a fleet's windows say of a candidate. Pure.

The unit is the device, never the frame: thousands of frames of one camera are one opinion. Of each
device only the change counts, from before to after, and of the canary's changes only what the
control's do not show as well.

- Roll back: a signal is worse by more than its margin, and that is no chance; or failures rose on
  several canaries, each beyond chance.
- Promote: enough was seen, and for every signal even the unfavourable limit is within its margin,
  whichever device is left out. A confidence that rose is a change like any other.
- Hold: everything else. That nothing was found is no reason to promote.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from edged.drift.cohorts import Cohorts, Unit
from edged.drift.disagreement import BudgetTest, judged
from edged.drift.failures import failures
from edged.drift.figures import figures, mix_distance
from edged.drift.permutation import Difference, compare

Decision = Literal["promote", "hold", "roll back"]


@dataclass(frozen=True, slots=True)
class Signal:
    """What is compared.

    Attributes:
        name: for people.
        margin: largest difference that does no harm.
        rolls_back: whether more is harm, and not only change.
        both_sides: whether less is a change as well.
        sign: -1 where it was turned round, so that larger is worse.
        ratio: whether it is the natural logarithm of a ratio.
    """

    name: str
    margin: float
    rolls_back: bool
    both_sides: bool = False
    sign: int = 1
    ratio: bool = False


SIGNALS = (
    Signal("failed inferences", 0.001, rolls_back=True),
    # Above a bin's width: the histogram can move by a whole one at once.
    Signal("p95 of invoke", math.log(1.5), rolls_back=True, ratio=True),
    Signal("top-1 score", 0.05, rolls_back=True, both_sides=True, sign=-1),
    Signal("entropy", 0.05, rolls_back=True, both_sides=True),
    Signal("commonest class", 0.2, rolls_back=True),
    Signal("class mix", 0.1, rolls_back=False),
)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a verdict asks.

    Attributes:
        alpha: chance to roll back a candidate that does nothing, for all signals together; and of
            each limit that a promotion goes by.
        devices: least in each cohort that saw enough.
        hours: least that such a device was watched before, and after.
        n_effective: least independent samples of a cohort, before and after; a device counts for
            at most its part of them, so that none can speak for others.
        budget: share of paired inferences that may disagree; None where that is not judged.
    """

    alpha: float = 0.05
    devices: int = 4
    hours: float = 24.0
    n_effective: float = 200.0
    budget: float | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """One signal's part in the verdict.

    Attributes:
        difference: the numbers; larger is worse.
        harmful: worse beyond margin and chance.
        harmless: within the margin for sure.
    """

    signal: Signal
    difference: Difference
    harmful: bool
    harmless: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision and what decided it.

    Attributes:
        reasons: in words, the weightiest first.
        judged: by signal; empty where there are too few devices to compare.
        failing: canaries whose inferences fail more than before, beyond chance.
        pairs: by canary with pairs, the test of its disagreement.
    """

    decision: Decision
    reasons: tuple[str, ...]
    judged: tuple[Judged, ...] = ()
    failing: tuple[str, ...] = ()
    pairs: dict[str, BudgetTest] = field(default_factory=dict)


def changes(unit: Unit) -> list[float]:
    """Return how a device changed, by signal, larger being worse."""
    before, after = figures(unit.before.tally), figures(unit.after.tally)
    return [
        after.errors - before.errors,
        math.log(after.p95_ms / before.p95_ms),
        before.top1 - after.top1,
        after.entropy - before.entropy,
        after.largest - before.largest,
        mix_distance(unit.before.tally.classes, unit.after.tally.classes),
    ]


def decide(cohorts: Cohorts, terms: Terms = Terms()) -> Verdict:
    """Return the verdict on a candidate.

    Args:
        cohorts: devices that can be compared.
        terms: what is asked.
    """
    canary = [unit for unit in cohorts.units if unit.cohort == "canary"]
    control = [unit for unit in cohorts.units if unit.cohort == "control"]
    pairs = _pairs(canary, terms.budget)
    failing, errors = failures(canary, control)
    judged_signals = _judge(canary, control, terms) if canary and control else ()
    harm = [_harm(one) for one in judged_signals if one.harmful]
    if errors and len(failing) > 1:
        harm.append(errors)
    if harm:
        return Verdict("roll back", tuple(harm), judged_signals, failing, pairs)
    reasons = _missing(canary, "canary", terms) + _missing(control, "control", terms)
    if failing:
        reasons.append(f"{', '.join(failing)} fails more than before; one device does not decide")
    reasons += [_doubt(one) for one in judged_signals if not one.harmless]
    reasons += _disagreement(pairs, terms.budget, len(canary))
    if not reasons and (name := _pivotal(canary, control, terms)):
        reasons.append(f"without {name} it would not be sure: one device does not decide")
    if reasons:
        return Verdict("hold", tuple(reasons), judged_signals, failing, pairs)
    words = (
        f"{len(canary)} canaries against {len(control)} devices: no signal is worse by more than"
        f" its margin, at {1.0 - terms.alpha:.0%} certainty each"
    )
    return Verdict("promote", (words,), judged_signals, failing, pairs)


def _judge(canary: list[Unit], control: list[Unit], terms: Terms) -> tuple[Judged, ...]:
    theirs = np.array([changes(unit) for unit in canary])
    others = np.array([changes(unit) for unit in control])
    found = []
    for signal, one in zip(SIGNALS, compare(theirs, others, terms.alpha), strict=True):
        harm = signal.rolls_back and one.p <= terms.alpha and one.value > signal.margin
        fine = one.high < signal.margin and (not signal.both_sides or one.low > -signal.margin)
        found.append(Judged(signal, one, harm, fine))
    return tuple(found)


def _pivotal(canary: list[Unit], control: list[Unit], terms: Terms) -> str:
    """Return a device without which it would not be sure that no signal is worse, or ""."""
    for unit in (*canary, *control):
        rest = [[one for one in units if one is not unit] for units in (canary, control)]
        if not all(one.harmless for one in _judge(rest[0], rest[1], terms)):
            return unit.device
    return ""


def _missing(units: list[Unit], cohort: str, terms: Terms) -> list[str]:
    """Return what a cohort has not seen yet."""
    said = []
    enough = [one for one in units if min(one.before.hours, one.after.hours) >= terms.hours]
    if len(enough) < terms.devices:
        said.append(
            f"{cohort}: {len(enough)} of {terms.devices} devices with {terms.hours:g} h before and"
            " after"
        )
    most = terms.n_effective / terms.devices
    for words, shares in (
        ("before", [unit.before for unit in units]),
        ("after", [unit.after for unit in units]),
    ):
        counted = sum(min(share.n_effective, most) for share in shares)
        if counted < terms.n_effective:
            said.append(
                f"{cohort}: {counted:.0f} of {terms.n_effective:g} independent samples {words},"
                f" at most {most:g} of a device"
            )
    return said


def _pairs(canary: list[Unit], budget: float | None) -> dict[str, BudgetTest]:
    if budget is None:
        return {}
    return {unit.device: judged(unit.pairs, budget) for unit in canary if unit.after.tally.paired}


def _disagreement(pairs: dict[str, BudgetTest], budget: float | None, canaries: int) -> list[str]:
    if budget is None:
        return []
    above = [device for device, test in pairs.items() if test.answer == "above"]
    if above:
        names = ", ".join(above)
        return [
            f"disagrees on more than {budget:.0%}: {names}; for better or worse, labels must say"
        ]
    within = sum(test.answer == "within" for test in pairs.values())
    if within * 2 <= canaries:
        return [f"disagreement is within {budget:.0%} for sure on {within} of {canaries} canaries"]
    return []


def _harm(one: Judged) -> str:
    return f"{shown(one)}, beyond {_margin(one.signal)}; p = {one.difference.p:.3g}"


def _doubt(one: Judged) -> str:
    signal, difference = one.signal, one.difference
    if math.isinf(difference.high):
        return f"{signal.name}: too few devices for limits"
    if signal.both_sides and difference.low <= -signal.margin and difference.high < signal.margin:
        better = "rose" if signal.sign < 0 else "fell"
        return f"{signal.name} {better}, which is no reason to promote: {shown(one)}"
    return f"{shown(one)}: not within {_margin(signal)} for sure"


def shown(one: Judged) -> str:
    """Return a signal with its difference and limits, in words; signs as people read them."""
    signal, difference = one.signal, one.difference
    limits = sorted((signal.sign * difference.low, signal.sign * difference.high))
    value = said(signal, signal.sign * difference.value)
    low, high = (said(signal, limit) for limit in limits)
    return f"{signal.name} {value} against the control ({low} to {high})"


def said(signal: Signal, value: float) -> str:
    """Return a difference of a signal as people read it."""
    if signal.ratio:
        return f"x{math.exp(value):.2f}" if value < 700.0 else "x inf"
    return f"{value:+.3%}" if signal.margin < 0.01 else f"{value:+.3f}"


def _margin(signal: Signal) -> str:
    return said(signal, signal.margin).removeprefix("+")
