"""Figures with their ranges, what they must and aim to be, and how they are shown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

HEADER = (
    "| figure | median [range] | must | aim | | beside it |",
    "|---|---|---|---|---|---|",
)


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        name: what was measured.
        values: one for each slice, or pair of processes.
        unit: "" for a ratio.
        must: the bound it has to keep; None where the figure is only told.
        aim: the bound that would be better.
        most: the bounds are upper ones.
        beside: what stands beside it: rates, the naive loop, other programs.
        digits: after the point.
        details: everything else, for the JSON file.
    """

    name: str
    values: tuple[float, ...]
    unit: str = ""
    must: float | None = None
    aim: float | None = None
    most: bool = True
    beside: str = ""
    digits: int = 2
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The median."""
        return median(self.values)

    def keeps(self, bound: float | None) -> bool:
        """Whether the median is on the right side of `bound`; as shown, so that no digit lies."""
        if bound is None:
            return True
        value = round(self.value, self.digits)
        return value <= bound if self.most else value >= bound

    @property
    def verdict(self) -> str:
        """`aim`, `must` or `MISSED`: the best bound it keeps; "" where there is none."""
        if self.must is None:
            return ""
        if not self.keeps(self.must):
            return "MISSED"
        return "aim" if self.aim is not None and self.keeps(self.aim) else "must"

    def row(self) -> str:
        """One line of the table."""
        unit = f" {self.unit}" if self.unit else ""
        must, aim = (self._bound(bound, unit) for bound in (self.must, self.aim))
        shown = f"{spread(self.values, self.digits)}{unit}"
        return f"| {self.name} | {shown} | {must} | {aim} | {self.verdict} | {self.beside} |"

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {**asdict(self), "value": self.value, "verdict": self.verdict}

    def _bound(self, bound: float | None, unit: str) -> str:
        return "" if bound is None else f"{'<=' if self.most else '>='} {bound:g}{unit}"


def spread(values: Iterable[float], digits: int = 2) -> str:
    """Median and range: `0.97 [0.96-0.98]`; the median alone where they are all one."""
    ordered = sorted(values)
    shown = f"{median(ordered):.{digits}f}"
    low, high = f"{ordered[0]:.{digits}f}", f"{ordered[-1]:.{digits}f}"
    return shown if low == high else f"{shown} [{low}-{high}]"


def table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    return "\n".join([*HEADER, *(figure.row() for figure in figures)])
