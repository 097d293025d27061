"""Two groups of devices, compared by exchanging them: exact for few, with no law assumed. Pure.

Where the groups do not differ, any choice of as many devices could have been the canary. How often
another choice differs as much is the p-value; all signals are asked with the same exchanges, so
that asking several costs no more than the largest of them (Westfall and Young).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations, islice

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

MOST_EXCHANGES = 20_000
"""Where there are more, so many are drawn, the same ones each time."""

_SEED = 20_011


@dataclass(frozen=True, slots=True)
class Difference:
    """What a signal does in the canary beyond what it does in the control.

    Attributes:
        canary: mean over devices.
        control: mean over devices.
        low: limit that the true difference lies above, at the level asked for; -inf where the
            devices are too few to say.
        high: limit that it lies below.
        p: how often an exchange has a difference as large, among all signals asked together.
    """

    canary: float
    control: float
    low: float
    high: float
    p: float

    @property
    def value(self) -> float:
        """Difference of the means."""
        return self.canary - self.control


def compare(canary: Numbers, control: Numbers, alpha: float) -> list[Difference]:
    """Compare two groups, signal by signal; larger is worse.

    Args:
        canary: shape (devices, signals).
        control: shape (other devices, signals).
        alpha: level of each limit, one-sided.
    """
    devices, chosen = np.vstack([canary, control]), len(canary)
    picks = _picks(len(devices), chosen)
    exchanged = picks @ devices / chosen - (1.0 - picks) @ devices / (len(devices) - chosen)
    seen = canary.mean(axis=0) - control.mean(axis=0)
    spread = np.sqrt((exchanged**2).mean(axis=0)) if len(picks) else np.zeros_like(seen)
    spread[spread == 0.0] = 1.0
    # A hair less, for sums that only differ in the order of adding.
    most = (exchanged / spread).max(axis=1, initial=-math.inf)
    p = [
        (1 + int((most >= one - 1e-9).sum())) / (1 + len(picks)) for one in (seen / spread).tolist()
    ]
    limits = _limits(picks, exchanged, seen, chosen, alpha)
    return [
        Difference(float(one), float(other), low, high, p[at])
        for at, (one, other, (low, high)) in enumerate(
            zip(canary.mean(axis=0), control.mean(axis=0), limits, strict=True)
        )
    ]


def _limits(
    picks: Numbers, exchanged: Numbers, seen: Numbers, chosen: int, alpha: float
) -> list[tuple[float, float]]:
    """Return the shifts of the canary that the exchanges do not reject, each side at `alpha`.

    An exchange that keeps m of c canaries moves by the share of a shift that it keeps; the shift at
    which it passes what was seen is known, so the limits are order statistics of these shifts.
    """
    rest = picks.shape[1] - chosen
    stays = picks[:, :chosen].sum(axis=1)
    kept = stays / chosen - (chosen - stays) / rest
    shifts = np.sort((seen - exchanged) / (1.0 - kept)[:, None], axis=0)
    rank = math.floor(alpha * (1 + len(picks)) + 1e-9)
    if rank < 1:
        return [(-math.inf, math.inf)] * len(seen)
    return list(zip(shifts[rank - 1].tolist(), shifts[-rank].tolist(), strict=True))


@lru_cache(maxsize=8)
def _picks(devices: int, chosen: int) -> Numbers:
    """Return other choices of canaries, shape (choices, devices), 1 where chosen."""
    count = math.comb(devices, chosen) - 1
    picks = np.zeros((min(count, MOST_EXCHANGES), devices))
    if count <= MOST_EXCHANGES:
        others = islice(combinations(range(devices), chosen), 1, None)
        members = np.array(list(others), np.intp).reshape(-1, chosen)
    else:
        rng = np.random.default_rng(_SEED)
        members = rng.random((MOST_EXCHANGES, devices)).argsort(axis=1)[:, :chosen]
        members[members.max(axis=1) < chosen, 0] = chosen  # the canary itself is no exchange
    np.put_along_axis(picks, members, 1.0, axis=1)
    picks.flags.writeable = False
    return picks
