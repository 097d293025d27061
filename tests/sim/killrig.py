"""Kills whole daemons at random moments, side by side, and counts what became of it."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sim.kernel import Kernel
from sim.lane import STATES, Lane, Round


class Rig:
    """Lanes side by side, until there have been enough kills or one that went wrong.

    Args:
        folder: for everything.
        kills: how many.
        seed: the same one makes the same choices; the moments are never quite the same.
        lanes: devices at a time.
        told: called after each round.

    Attributes:
        power_cuts: whether this machine can have them.
        rounds: what became of each.
    """

    def __init__(
        self,
        folder: Path,
        kills: int,
        seed: int,
        lanes: int,
        told: Callable[[Rig, Round], None] = lambda _rig, _round: None,
    ) -> None:
        self.power_cuts = not Kernel(folder / "kernel").why_not()
        self.rounds: list[Round] = []
        self._folder, self._kills, self._seed, self._lanes = folder, kills, seed, lanes
        self._told = told
        self._lock = threading.Lock()
        self._begun = 0
        self._began_s = time.monotonic()

    @property
    def done(self) -> int:
        """Kills so far."""
        return sum(len(one.kills) for one in self.rounds)

    @property
    def seconds(self) -> float:
        """Since the beginning."""
        return time.monotonic() - self._began_s

    @property
    def wrong(self) -> list[str]:
        """All that must not be."""
        return [words for one in self.rounds for words in one.wrong]

    def run(self) -> None:
        """Kill."""
        with ThreadPoolExecutor(self._lanes) as pool:
            for done in [pool.submit(self._lane, number) for number in range(self._lanes)]:
                done.result()

    def _lane(self, number: int) -> None:
        folder = self._folder / f"lane{number}"
        lane = Lane(folder, f"{self._seed}-{number}", power_cuts=self.power_cuts)
        try:
            while self._more():
                one = lane.round()
                with self._lock:
                    self.rounds.append(one)
                    self._told(self, one)
                if one.wrong:
                    print(lane.device.log[-8000:], file=sys.stderr)
        finally:
            lane.close()
        left = lane.orphans()
        assert not left, f"processes that outlived the daemon: {left}"

    def _more(self) -> bool:
        with self._lock:
            under_way = self._begun - len(self.rounds)
            self._begun += 1
            return self.done + under_way < self._kills and not self.wrong


def table(rounds: list[Round]) -> str:
    """Return how each kill ended, by the state it hit, as a Markdown table."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    outcomes: Counter[str] = Counter()
    for one in rounds:
        for how, state in one.kills:
            rows[state][how] += 1
            rows[state][one.outcome] += 1
            rows[state]["wrong"] += bool(one.wrong)
            outcomes[one.outcome] += 1
    columns = ["kill -9", "power cut", *sorted(outcomes), "wrong"]
    lines = [f"| hit in | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for state in STATES:
        if state in rows:
            cells = (str(rows[state][column] or "-") for column in columns)
            lines.append(f"| {state} | {' | '.join(cells)} |")
    total: Counter[str] = sum(rows.values(), Counter())
    lines.append(f"| all | {' | '.join(str(total[column] or '-') for column in columns)} |")
    return "\n".join(lines)
