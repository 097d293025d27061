"""What grows over many deployments, and what does not. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median_low

from benchmark.slopes import slope


@dataclass(frozen=True)
class Sample:
    """What was seen at rest after so many deployments."""

    deployments: int
    t_s: float
    rss_kb: float
    anonymous_kb: float
    threads: int
    descriptors: int
    files: int
    disk_kb: float


def grown(samples: Sequence[Sample]) -> tuple[list[str], list[str]]:
    """What grew in the later two thirds, and what is to be said of them in any case."""
    late = samples[len(samples) // 3 :]
    middle, last = late[: len(late) // 2], late[len(late) // 2 :]
    wrong, said = [], []
    for name in ("threads", "descriptors", "files"):
        # A leak moves the median, what a moment needs does not.
        before, after = (median_low(getattr(one, name) for one in part) for part in (middle, last))
        said.append(f"{name}: {before} in the second third, {after} in the last")
        if after > before:
            wrong.append(f"more {name}")
    for name in ("rss_kb", "anonymous_kb", "disk_kb"):
        # As if a thousand deployments were an hour.
        at_s = [3.6 * one.deployments for one in late]
        fit = slope(at_s, [getattr(one, name) for one in late])
        if fit is None:
            continue
        kb, error_kb = fit.kb_per_hour, fit.error_kb_per_hour
        what = name.removesuffix("_kb")
        said.append(f"{what}: {kb:+.0f} KB in 1000 deployments, standard error {error_kb:.0f}")
        if fit.grows:
            wrong.append(f"more {what}")
    return wrong, said


def table(samples: Sequence[Sample], rows: int = 20) -> str:
    """The samples as a Markdown table, thinned."""
    step = max(1, math.ceil(len(samples) / rows))
    lines = [
        "| deployments | RSS MB | anonymous MB | threads | descriptors | files | disk MB |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.deployments} | {one.rss_kb / 1024:.2f} | {one.anonymous_kb / 1024:.2f}"
        f" | {one.threads} | {one.descriptors} | {one.files} | {one.disk_kb / 1024:.2f} |"
        for one in [*samples[:-1:step], samples[-1]]
    ]
    return "\n".join(lines)
