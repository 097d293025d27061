"""Do inferences fail more than before, on each device by itself? Pure.

Rare failures are counted and tested exactly: ranks and means do not see them. Windows are counted,
not failures, as these come in bursts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from edged.drift.cohorts import Unit

# A device fails more than before only where chance would say so in one of 1000 cases.
_FAILING_P = 0.001
_FAILING_SHARE = 0.05


def failures(canary: Sequence[Unit], control: Sequence[Unit]) -> tuple[tuple[str, ...], str]:
    """Return the canaries that fail more than before, and words where that is the candidate."""
    failing = tuple(unit.device for unit in canary if _fails_more(unit))
    others = sum(_fails_more(unit) for unit in control)
    if not failing or others * len(canary) * 2 > len(failing) * len(control):
        return failing, ""
    words = (
        f"inferences fail more than before on {len(failing)} of {len(canary)} canaries"
        f" ({', '.join(failing)}), each beyond chance, and on {others} of {len(control)} others"
    )
    return failing, words


def _fails_more(unit: Unit) -> bool:
    """Return whether more windows of a device have failures than before: Fisher's exact test."""
    before, after = unit.before, unit.after
    if after.failing / after.windows - before.failing / before.windows < _FAILING_SHARE:
        return False
    failing, windows = before.failing + after.failing, before.windows + after.windows
    logs = [
        _log_choose(after.windows, count) + _log_choose(before.windows, failing - count)
        for count in range(after.failing, min(failing, after.windows) + 1)
    ]
    whole = _log_choose(windows, failing)
    return math.fsum(math.exp(one - whole) for one in logs) < _FAILING_P


def _log_choose(of: int, chosen: int) -> float:
    if not 0 <= chosen <= of:
        return -math.inf
    return math.lgamma(of + 1) - math.lgamma(chosen + 1) - math.lgamma(of - chosen + 1)
