"""What came of the second act, and whether it was what was announced."""

from __future__ import annotations

from dataclasses import dataclass

from edged.demo.subscriber import Sequence


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a deployment ended.

    Attributes:
        version: what was wanted.
        what: what that was, in words.
        status: of the result.
        reason: of the result, or what held it up until it was canceled.
        took_s: from the message that wanted it to the result.
    """

    version: str
    what: str
    status: str
    reason: str
    took_s: float


class Account:
    """Collects outcomes, and what came out otherwise than announced.

    Attributes:
        outcomes: in order.
        otherwise: in words; empty while all is as announced.

    Args:
        process_id: of the daemon at the beginning.
        frame_s: time between two frames of the camera.
    """

    def __init__(self, process_id: int, frame_s: float) -> None:
        self.outcomes: list[Outcome] = []
        self.otherwise: list[str] = []
        self._process_id, self._frame_s = process_id, frame_s

    def close(self, sequence: Sequence, version: str, left: str) -> int:
        """Show the table, what a subscriber counted, and the verdict.

        Args:
            sequence: of all predictions.
            version: that runs now.
            left: the version that should.

        Returns:
            0 where all came out as announced, else 1.
        """
        self._table()
        print(
            f"\npredictions  {sequence.received} received, {sequence.missing} missing,"
            f" {sequence.repeated} repeated"
            f"\ndaemon       process {self._process_id} from beginning to end,"
            f" {len(sequence.boots)} start"
            f"\nswaps        {sequence.swaps}; longest time between two frames there"
            f" {1000 * sequence.swap_gap_s:.0f} ms, elsewhere"
            f" {1000 * sequence.largest_gap_s:.0f} ms, the camera's {1000 * self._frame_s:.0f} ms"
            f"\nruns now     {version}"
        )
        checks = (
            (sequence.missing == 0, f"{sequence.missing} predictions are missing"),
            (sequence.repeated == 0, f"{sequence.repeated} predictions came twice"),
            (len(sequence.boots) == 1, "the daemon has started anew"),
            (version == left, f"{version} runs instead of {left}"),
        )
        self.otherwise += [words for fine, words in checks if not fine]
        if not self.otherwise:
            print("\nAll as announced.")
            return 0
        print("\nOtherwise than announced:")
        for line in self.otherwise:
            print(f"  {line}")
        return 1

    def _table(self) -> None:
        width = max((len(outcome.what) for outcome in self.outcomes), default=10) + 2
        print(f"\n{'version':<9}{'what it is':<{width}}{'result':<13}{'reason':<20}{'took':>7}")
        for outcome in self.outcomes:
            print(
                f"{outcome.version:<9}{outcome.what:<{width}}{outcome.status:<13}"
                f"{outcome.reason or '-':<20}{outcome.took_s:>5.1f} s"
            )
