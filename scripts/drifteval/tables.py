"""The results as Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from drifteval import baselines, intervals, trials
from drifteval.cameras import CLEAN, CONTROLS, PERIOD_S
from drifteval.pictures import CELLS, TUNED_ON
from drifteval.pool import Pool

GOALS = (
    *(("blur", 3), ("blur", 5), ("fog", 3), ("fog", 5), ("noise", 3), ("noise", 5)),
    *(("smear", 3), ("smear", 5), ("jpeg", 3), ("jpeg", 5), ("occlusion", 3), ("occlusion", 5)),
    *(("bright", 5), ("dark", 3), ("blur", 1), ("rotation", 3), ("rotation", 5)),
)
_BLIND = {("fog", 3), ("dark", 3), ("blur", 1)}
_NAMES = {("rotation", 1): "rotation 10°", ("rotation", 3): "rotation 45°",
          ("rotation", 5): "rotation 180°"}  # fmt: skip


def goal(cell: tuple[str, int]) -> str:
    """Return the goal of a cell in words, or nothing."""
    if cell not in GOALS:
        return ""
    windows = 6 if cell[0] == "rotation" else 4 if cell in _BLIND else 3
    return f"<= {windows}"


def name(cell: tuple[str, int]) -> str:
    """Return how a cell is called in tables."""
    return _NAMES.get(cell, f"{cell[0]} {cell[1]}")


def false_alarms(found: Sequence[trials.Found]) -> Iterator[str]:
    """Yield the table of clean and unusual days."""
    yield "| days | camera-days | statistical: alarms | a camera-month (95 %) | by signal |"
    yield "|---|---|---|---|---|"
    for days in (CLEAN, *CONTROLS):
        each = trials.CLEAN_DAYS if days == CLEAN else trials.CONTROL_DAYS
        count = sum(len(one.alarms[days]) for one in found)
        exposure = len(found) * each / 30
        low, high = intervals.rate(count, exposure)
        by = Counter(signal for one in found for _, signal in one.alarms[days])
        told = ", ".join(f"{signal} {n}" for signal, n in by.most_common()) or "-"
        yield (
            f"| {days} | {len(found) * each} | {count} |"
            f" {count / exposure:.2f} ({low:.2f} to {high:.2f}) | {told} |"
        )
    yield ""
    yield "| days | camera-days | fast path: alarms | a camera-month (95 %) |"
    yield "|---|---|---|---|"
    for days in (CLEAN, *CONTROLS):
        count = sum(one.minute_alarms[days] for one in found)
        exposure = len(found) * trials.minute_days(days) / 30
        low, high = intervals.rate(count, exposure)
        yield (
            f"| {days} | {len(found) * trials.minute_days(days)} | {count} |"
            f" {count / exposure:.2f} ({low:.2f} to {high:.2f}) |"
        )


def fast(found: Sequence[trials.Found]) -> Iterator[str]:
    """Yield the table of gross faults."""
    yield "| fault | within 5 min (95 %) | median min | p90 min | told as |"
    yield "|---|---|---|---|---|"
    for kind, _ in trials.FAST:
        minutes = [one.minutes[kind] for one in found]
        hits = sum(m is not None and m <= 5.0 for m in minutes)
        low, high = intervals.share(hits, len(found))
        known = [m if m is not None else np.inf for m in minutes]
        told = Counter(one.faults[kind] or "nothing" for one in found)
        yield (
            f"| {kind} | {hits}/{len(found)} ({low:.0%} to {high:.0%}) |"
            f" {_quantile(known, 0.5)} | {_quantile(known, 0.9)} |"
            f" {', '.join(f'{word} {n}' for word, n in told.most_common())} |"
        )


def statistical(pool: Pool, found: Sequence[trials.Found]) -> Iterator[str]:
    """Yield the table of the statistical path, a row for each corruption."""
    yield (
        "| what | agreement with clean | goal, windows | found (95 %) | median | p90 | median min |"
        " ramped: found | median | first told | tuned on |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|---|"
    for number, cell in enumerate(CELLS):
        windows = [one.delays[(*cell, False)] for one in found]
        hits = sum(w is not None for w in windows)
        low, high = intervals.share(hits, len(found))
        known = [w if w is not None else np.inf for w in windows]
        told = Counter(one.signals[(*cell, False)] for one in found if one.signals[(*cell, False)])
        # The hour in which it begins is on average half over.
        half = _quantile([60 * (w - 0.5) for w in known], 0.5)
        ramp = [one.delays.get((*cell, True)) for one in found]
        ramps = [w if w is not None else np.inf for w in ramp]
        ramped = (
            "- | -"
            if cell in trials.FAST
            else f"{sum(w is not None for w in ramp)}/{len(found)} | {_quantile(ramps, 0.5)}"
        )
        yield (
            f"| {name(cell)} | {pool.agreement(number):.2f} | {goal(cell)} |"
            f" {hits}/{len(found)} ({low:.0%} to {high:.0%}) | {_quantile(known, 0.5)} |"
            f" {_quantile(known, 0.9)} | {half} | {ramped} |"
            f" {', '.join(signal for signal, _ in told.most_common(2))} |"
            f" {'yes' if cell[0] in TUNED_ON else 'held out'} |"
        )


def compared(found: Sequence[baselines.Found], most: float) -> Iterator[str]:
    """Yield the table of the baselines."""
    months = len(found) * baselines.CLEAN_DAYS / 30
    cells = baselines.CELLS
    yield (
        "| method | alarms a camera-month, textbook | threshold times | alarms then |"
        + "".join(f" {name(cell)} |" for cell in cells)
    )
    yield "|---|---|---|---|" + "---|" * len(cells)
    for method, factor in baselines.matched(list(found), most).items():
        plain = sum(one.alarms.get((method, 1.0), 0) for one in found) / months
        if factor is None:
            yield f"| {method} | {plain:.0f} | none suffices | - |" + " - |" * len(cells)
            continue
        rate = sum(one.alarms.get((method, factor), 0) for one in found) / months
        row = f"| {method} | {plain:.1f} | {factor:g} | {rate:.2f} |"
        for cell in cells:
            delays = [one.delays.get((method, factor, cell)) for one in found]
            hits = sum(d is not None for d in delays)
            median = _quantile([d if d is not None else np.inf for d in delays], 0.5)
            row += f" {hits}/{len(found)}, {median} h |"
        yield row


def slow(found: Sequence[Sequence[trials.Slow]]) -> Iterator[str]:
    """Yield the table of scenes that stay for longer."""
    yield (
        "| a scene stays | independent samples an hour | hours that decide nothing |"
        " false alarms | a camera-month (95 %) | if every hour decided | harm found | median |"
    )
    yield "|---|---|---|---|---|---|---|---|"
    months = len(found) * trials.SLOW_DAYS / 30
    for n, dwell in enumerate(trials.SLOW_DWELLS):
        rows = [one[n] for one in found]
        events = sum(row.alarms for row in rows)
        low, high = intervals.rate(events, months)
        late = _quantile([np.inf if row.found is None else row.found for row in rows], 0.5)
        yield (
            f"| {dwell * PERIOD_S} s | {np.median([row.effective for row in rows]):.0f} |"
            f" {np.mean([row.insufficient for row in rows]):.0%} |"
            f" {events} | {events / months:.2f} ({low:.2f} to {high:.2f}) |"
            f" {sum(row.ungated for row in rows)} |"
            f" {sum(row.found is not None for row in rows)}/{len(rows)} | {late} h |"
        )


def _quantile(values: Sequence[float], q: float) -> str:
    value = float(np.quantile(values, q, method="higher" if q > 0.5 else "lower"))
    return "-" if np.isinf(value) else f"{value:.1f}".removesuffix(".0")
