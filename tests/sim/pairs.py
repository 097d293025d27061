"""Paired answers of two models on a camera that shows one scene after the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SCENES = 24
KINDS = ("even", "whole", "mixed")


def scenes(rng: np.random.Generator, kind: str, share: float) -> list[float]:
    """Return how often two models disagree in each scene; the mean is `share`.

    Args:
        rng: for `mixed`.
        kind: `even`: in all scenes alike; `whole`: in some scenes always, in the others never;
            `mixed`: anything between.
        share: of all frames.
    """
    if kind == "even":
        return [share] * SCENES
    if kind == "whole":
        whole = int(SCENES * share)
        return [1.0] * whole + [SCENES * share - whole] + [0.0] * (SCENES - whole - 1)
    drawn = rng.beta(share, 1.0 - share, SCENES)
    low, high = 0.0, 1e9
    for _ in range(200):  # a factor, with values cut at 1, that gives the mean
        middle = (low + high) / 2
        low, high = (
            (middle, high) if np.minimum(drawn * middle, 1).mean() < share else (low, middle)
        )
    return [float(one) for one in np.minimum(drawn * low, 1)]


def frames(
    rng: np.random.Generator, shares: list[float], dwell: float, count: int
) -> Iterator[bool]:
    """Yield for each frame whether the models disagree.

    Args:
        rng: of the run.
        shares: by scene.
        dwell: frames that a scene lasts in the mean; the autocorrelation time is then at most
            2 * dwell - 1 frames.
        count: how many frames.
    """
    done = 0
    while done < count:
        share = shares[rng.integers(len(shares))]
        lasts = min(int(rng.geometric(1 / dwell)), count - done)
        yield from (rng.random(lasts) < share).tolist()
        done += lasts
