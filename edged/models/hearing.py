"""What is wanted and not written yet: one place for each source, however much is sent.

Messages are made one by the rules of the journal itself (`receive`), so neither the order in which
they come nor what cannot be taken changes what is written in the end. Of those that make up one
place a single one stays unacknowledged until then: after a crash it comes again.
"""

from __future__ import annotations

from dataclasses import replace

from edged.models.desired import Source, parse_desired
from edged.models.inbox import Arrival
from edged.models.journal import Journal
from edged.models.pursuit import Clock, Receipt, receive
from edged.models.records import Held


class Hearing:
    """What the sources of one model have said. One thread."""

    def __init__(self) -> None:
        self._held: dict[Source, Held] = {}
        self._undated: tuple[str, ...] | None = None
        self._heard: dict[Source, Arrival] = {}  # what `_held` is from
        self._early: dict[Source, Arrival] = {}  # not to be judged before the clock is set

    @property
    def waits(self) -> bool:
        """Whether anything has been said that can be written."""
        return bool(self._heard)

    def hear(self, journal: Journal, source: Source, arrival: Arrival, clock: Clock) -> None:
        """Take a Desired.

        Args:
            journal: as it is on the disk.
            source: who says it.
            arrival: acknowledged here where it changes nothing.
            clock: the time.

        Raises:
            MessageError: it cannot be taken; it is not acknowledged, and not kept.
        """
        before = self.over(journal)
        desired = parse_desired(arrival.message.payload)
        after, receipt = receive(before, source, desired, clock)
        if receipt is Receipt.CLOCK:
            _put(self._early, source, arrival)
        elif receipt is Receipt.RECORDED:
            held = after.held(source)
            if held is not None:
                self._held[source] = held
            self._undated = after.undated
            _put(self._heard, source, arrival)
        elif source in self._heard:
            # What made this one needless is not safe yet.
            self._heard[source] = self._heard[source].instead_of(arrival)
        else:
            arrival.message.acknowledge()

    def early(self) -> list[Arrival]:
        """Take out what waits for the clock."""
        taken = list(self._early.values())
        self._early.clear()
        return taken

    def over(self, journal: Journal) -> Journal:
        """Return the journal with what has been said."""
        for held in self._held.values():
            journal = journal.holding(held)
        return journal if self._undated is None else replace(journal, undated=self._undated)

    def written(self) -> None:
        """Acknowledge: what `over` returned is on the disk."""
        for arrival in self._forget():
            arrival.message.acknowledge()

    def left(self) -> list[Arrival]:
        """Take out all that is not written, to be heard by somebody else."""
        return [*self._forget(), *self.early()]

    def _forget(self) -> list[Arrival]:
        heard = list(self._heard.values())
        self._heard.clear()
        self._held.clear()
        self._undated = None
        return heard


def _put(places: dict[Source, Arrival], source: Source, arrival: Arrival) -> None:
    before = places.get(source)
    places[source] = arrival if before is None else arrival.instead_of(before)
