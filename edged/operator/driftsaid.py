"""What a fleet's windows come to, as tables and as values for machines. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from edged.drift.cohorts import Cohorts
from edged.drift.figures import figures
from edged.drift.merging import Merged, Share, Sifted
from edged.drift.verdict import SIGNALS, Judged, Verdict, changes, said
from edged.views import plain

MERGED = ("VERSION", "COHORT", "DEVICE", "WINDOWS", "HOURS", "SAMPLES", "N_EFF", "FAILED",
          "P95 MS", "TOP-1", "ENTROPY", "COMMONEST", "REPEATED", "LUMA", "SHARPNESS")  # fmt: skip
JUDGED = ("SIGNAL", "CANARY", "CONTROL", "DIFFERENCE", "LOW", "HIGH", "MARGIN", "P", "SAYS")
CHANGES = ("DEVICE", "COHORT", *(signal.name.upper() for signal in SIGNALS))


def merged_rows(groups: Iterable[Merged]) -> list[list[str]]:
    """Return the table `MERGED`: each group as a whole, then device by device."""
    rows = []
    for one in groups:
        group = [plain(one.group.version)[:40], one.group.cohort or "-"]
        for device, share in _shares(one):
            seen = figures(share.tally)
            rows.append(
                [
                    *group, device, str(share.windows), f"{share.hours:.1f}",
                    str(share.tally.sampled), f"{share.n_effective:.0f}", f"{seen.errors:.4%}",
                    f"{seen.p95_ms:.1f}", f"{seen.top1:.3f}", f"{seen.entropy:.3f}",
                    f"{seen.largest:.3f}", f"{seen.repeated:.3f}",
                    f"{seen.luma:.0f}", f"{seen.sharpness:.1f}",
                ]
            )  # fmt: skip
    return rows


def merged_values(groups: Iterable[Merged]) -> list[dict[str, Any]]:
    """Return the same for machines."""
    return [
        asdict(one.group)
        | {"devices": {device: _share_values(share) for device, share in one.devices.items()}}
        | {"pooled": asdict(figures(one.pooled))}
        for one in groups
    ]


def judged_rows(judged: Iterable[Judged]) -> list[list[str]]:
    """Return the table `JUDGED`."""
    rows = []
    for one in judged:
        signal, difference = one.signal, one.difference
        low, high = sorted((signal.sign * difference.low, signal.sign * difference.high))
        numbers = [signal.sign * number for number in (difference.canary, difference.control)]
        numbers += [signal.sign * difference.value, low, high]
        says = "worse" if one.harmful else "harmless" if one.harmless else "unsure"
        margin = said(signal, signal.margin).removeprefix("+")
        cells = [said(signal, number) for number in numbers]
        rows.append([signal.name, *cells, margin, f"{difference.p:.3f}", says])
    return rows


def change_rows(cohorts: Cohorts) -> list[list[str]]:
    """Return the table `CHANGES`: of each device, from before to after."""
    return [
        [unit.device, unit.cohort]
        + [
            said(signal, signal.sign * change)
            for signal, change in zip(SIGNALS, changes(unit), strict=True)
        ]
        for unit in cohorts.units
    ]


def verdict_values(cohorts: Cohorts, verdict: Verdict) -> dict[str, Any]:
    """Return a verdict for machines; limits that are infinite are null."""
    return {
        "candidate": {"version": cohorts.candidate[0], "sha256": cohorts.candidate[1]},
        "baseline": {"version": cohorts.baseline[0], "sha256": cohorts.baseline[1]},
        "began": cohorts.began_ms / 1000,
        "decision": verdict.decision.replace(" ", "_"),
        "reasons": verdict.reasons,
        "signals": [
            {
                "signal": one.signal.name,
                "larger_is_worse": {
                    key: value if math.isfinite(value) else None
                    for key, value in asdict(one.difference).items()
                }
                | {"difference": one.difference.value, "margin": one.signal.margin},
                "logarithm": one.signal.ratio,
                "turned": one.signal.sign < 0,
                "worse": one.harmful,
                "harmless": one.harmless,
            }
            for one in verdict.judged
        ],
        "devices": [
            {
                "device": unit.device,
                "cohort": unit.cohort,
                "before": _share_values(unit.before),
                "after": _share_values(unit.after),
                "changes": dict(
                    zip([signal.name for signal in SIGNALS], changes(unit), strict=True)
                ),
            }
            for unit in cohorts.units
        ],
        "failing": verdict.failing,
        "pairs": {
            device: {"answer": test.answer, "mean": test.mean, "observations": test.observations}
            for device, test in verdict.pairs.items()
        },
        "left_out": cohorts.left_out,
        "passed_over": cohorts.passed_over,
    }


def remarks(sifted: Sifted, unread: dict[str, int], cohorts: Cohorts | None) -> list[str]:
    """Return sentences on what was not counted."""
    said_ = [f"{count} refused: {why}." for why, count in sorted(unread.items()) if count]
    said_ += [
        f"{count} windows of {device} refused: it {why}."
        for (device, why), count in sifted.refused.items()
    ]
    if cohorts is not None:
        said_ += [f"{device} is left out: {why}." for device, why in cohorts.left_out.items()]
        said_ += [
            f"{count} windows passed over: {why}."
            for why, count in sorted(cohorts.passed_over.items())
        ]
    return said_


def _shares(one: Merged) -> Sequence[tuple[str, Share]]:
    parts = list(one.devices.values())
    whole = Share(
        one.pooled,
        sum(part.windows for part in parts),
        sum(part.failing for part in parts),
        math.fsum(part.hours for part in parts),
        math.fsum(part.n_effective for part in parts),
    )
    return [(f"all {len(parts)}", whole), *one.devices.items()]


def _share_values(share: Share) -> dict[str, Any]:
    return {
        "windows": share.windows,
        "failing_windows": share.failing,
        "hours": share.hours,
        "inferred": share.tally.inferred,
        "sampled": share.tally.sampled,
        "n_effective": share.n_effective,
        **asdict(figures(share.tally)),
    }
