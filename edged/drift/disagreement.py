"""Do two models disagree more often than a budget allows? A test to be read at any time. Pure.

Wealth that only grows when the budget is wrong (a test martingale): before each observation a share
of it is bet on "more than the budget". Where the budget holds, the wealth ever reaches 1 / alpha
with a chance of at most alpha, however often one looks (Ville's inequality).

That holds for observations of which the earlier ones say nothing about the next. Frames of a video
are not such: on frames the same test is wrong more often than right. So an observation is the mean
of a block that lasts one autocorrelation time, and three quarters of it are passed over before the
next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import numpy as np

ALPHA = 0.005
"""How often, at most, a test may ever be wrong in each direction."""

# In autocorrelation times: longer ones need more frames, shorter ones are wrong more often.
_BLOCK = 1.0
_GAP = 0.75
_BETS = 31
_OVERFLOW = 700.0

Answer = Literal["above", "within", "open"]


class BudgetTest:
    """Tests a mean of values between 0 and 1 against a budget, from above and from below.

    Args:
        budget: share, above 0 and below 1.
        alpha: chance of a wrong answer, in each direction.

    Attributes:
        observations: so far.

    Raises:
        ValueError: the budget is no such share.
    """

    def __init__(self, budget: float, alpha: float = ALPHA) -> None:
        if not 0.0 < budget < 1.0:
            raise ValueError("a budget lies between 0 and 1")
        self.budget = budget
        self.observations = 0
        self._limit = float(np.log(1.0 / alpha))
        self._sum = 0.0
        # A bet of 1 / (largest possible loss) could lose all: the grid ends before it.
        shares = np.arange(1, _BETS + 1) / (_BETS + 1)
        self._up, self._down = shares / budget, shares / (1.0 - budget)
        self._log_up, self._log_down = np.zeros(_BETS), np.zeros(_BETS)
        self._most_up = self._most_down = 0.0

    def observe(self, value: float) -> None:
        """Take one observation.

        Args:
            value: share that disagreed, 0..1.
        """
        self.observations += 1
        self._sum += value
        self._log_up += np.log1p(self._up * (value - self.budget))
        self._log_down += np.log1p(self._down * (self.budget - value))
        self._most_up = max(self._most_up, _log_mean(self._log_up))
        self._most_down = max(self._most_down, _log_mean(self._log_down))

    @property
    def mean(self) -> float | None:
        """Mean of what was observed, or None."""
        return self._sum / self.observations if self.observations else None

    @property
    def evidence(self) -> float:
        """Most that the wealth ever was, betting on more than the budget; at most e**700."""
        return float(np.exp(min(self._most_up, _OVERFLOW)))

    @property
    def answer(self) -> Answer:
        """`above` the budget, `within` it, or still `open`."""
        if self._most_up >= self._limit:
            return "above"
        return "within" if self._most_down >= self._limit else "open"


class Blocks:
    """Folds pairs, in the order in which they were made, into observations for a test.

    Args:
        test: gets them.
    """

    def __init__(self, test: BudgetTest) -> None:
        self._test = test
        self._paired = self._disagreed = 0
        self._length = 0.0
        self._gap = 0.0

    def take(self, paired: int, disagreed: int, length: float) -> None:
        """Take pairs that lie within a stretch of time.

        A stretch is never divided: it is part of a block, or passed over, as a whole.

        Args:
            paired: how many.
            disagreed: of them.
            length: of the stretch, in autocorrelation times.
        """
        if self._gap > 0.0:
            self._gap -= length
            return
        self._paired += paired
        self._disagreed += disagreed
        self._length += length
        if self._length < _BLOCK or not self._paired:
            return
        self._test.observe(self._disagreed / self._paired)
        self._paired = self._disagreed = 0
        self._length, self._gap = 0.0, _GAP


def judged(
    pairs: Iterable[tuple[int, int, float]], budget: float, alpha: float = ALPHA
) -> BudgetTest:
    """Return the test of pairs against a budget; see `Blocks.take` for what a pair is."""
    test = BudgetTest(budget, alpha)
    blocks = Blocks(test)
    for paired, disagreed, length in pairs:
        blocks.take(paired, disagreed, length)
    return test


def _log_mean(logs: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    most = float(logs.max())
    return most + float(np.log(np.exp(logs - most).mean()))
