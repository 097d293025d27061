"""Exact intervals, 95 %: of a share (Clopper and Pearson 1934) and of a rate (Garwood 1936)."""

from __future__ import annotations

import math
from collections.abc import Callable


def share(hits: int, count: int) -> tuple[float, float]:
    """Return the bounds of a probability after `hits` of `count`."""
    low = 0.0 if hits == 0 else _root(lambda p: 1 - _binomial(hits - 1, count, p) - 0.025, 0, 1)
    high = 1.0 if hits == count else _root(lambda p: 0.025 - _binomial(hits, count, p), 0, 1)
    return low, high


def rate(events: int, exposure: float) -> tuple[float, float]:
    """Return the bounds of a rate after `events` in `exposure`."""
    top = 10.0 * events + 20.0
    low = 0.0 if events == 0 else _root(lambda m: 1 - _poisson(events - 1, m) - 0.025, 0, top)
    return low / exposure, _root(lambda m: 0.025 - _poisson(events, m), 0, top) / exposure


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2


def _binomial(k: int, n: int, p: float) -> float:
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def _poisson(k: int, mean: float) -> float:
    return sum(math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) if mean else float(i == 0)
               for i in range(k + 1))  # fmt: skip
