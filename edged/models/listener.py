"""Takes in what arrives over MQTT: hears, obeys, refuses, and acknowledges what is written.

The part of the updater that faces outsiders: whatever they send, it writes each journal once a
second for it, and answers once a second.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping

from edged.errors import MessageError, StoreError
from edged.models.casework import Case
from edged.models.desired import Cancel, parse_command
from edged.models.hearing import Hearing
from edged.models.inbox import Arrival, Inbox
from edged.models.journal import Journal
from edged.models.pursuit import Clock, cancel, roll_back
from edged.models.records import Moment

log = logging.getLogger(__name__)

# What arrives together after a connection is made is looked at together.
SETTLE_S = 2.0
_MESSAGE_S = 1.0  # between two writes for messages, two for commands, two answers
# What was retained arrives before a connection takes answers; of a flood, some are answered.
_MOST_REFUSED = 16


class Listener:
    """Listens for all models; on the thread that writes journals.

    Args:
        cases: by model name.
        inbox: what arrives.
        answer: tells topic, reason and detail of a message that cannot be taken; returns whether
            there is anybody to tell it to.
        clock: the wall clock.
        moment: when something begins.
        monotonic: seconds.
    """

    def __init__(
        self,
        cases: Mapping[str, Case],
        inbox: Inbox,
        answer: Callable[[str, str, str], bool],
        *,
        clock: Callable[[], Clock],
        moment: Callable[[], Moment],
        monotonic: Callable[[], float],
    ) -> None:
        self._cases = cases
        self._inbox = inbox
        self._answer = answer
        self._clock = clock
        self._moment = moment
        self._monotonic = monotonic
        self._hearings = {name: Hearing() for name in cases}
        self._refused: deque[tuple[str, MessageError]] = deque()
        self._write_s: float | None = None  # when what has been heard is written
        self._written_s = self._obeyed_s = self._answered_s = self._asked_s = float("-inf")

    def turn(self) -> None:
        """Take in what has arrived, as far as it is time to."""
        self._listen()
        self._obey()
        self._write()
        self._reply()

    def end(self) -> None:
        """Write what has been heard; what cannot be written stays in the inbox.

        After a reload there is another listener, and the broker says nothing twice on a connection.
        """
        for name, hearing in self._hearings.items():
            self._keep(name)
            self._inbox.put_back(hearing.left())

    @property
    def waits(self) -> bool:
        """Whether something has been heard that is not written."""
        return any(hearing.waits for hearing in self._hearings.values())

    def _listen(self) -> None:
        """Look at what is wanted, once more at what waits for the clock; nothing is written yet."""
        for arrival in self._inbox.desired():
            self._hear(arrival)
        now_s = self._monotonic()
        if now_s >= self._asked_s + _MESSAGE_S:
            self._asked_s = now_s
            for hearing in self._hearings.values():
                for arrival in hearing.early():
                    self._hear(arrival)

    def _hear(self, arrival: Arrival) -> None:
        address = arrival.address
        if arrival.refused is not None:
            self._refuse(arrival, arrival.refused)
            return
        if address is None or address.model not in self._cases:
            arrival.message.acknowledge()  # its journal must not be written
            return
        journal, hearing = self._cases[address.model].journal, self._hearings[address.model]
        try:
            hearing.hear(journal, address.source, arrival, self._clock())
        except MessageError as error:
            self._refuse(arrival, error)
        except Exception:
            # A bug ends the process, and must not come again with every start.
            arrival.message.acknowledge()
            raise

    def _write(self) -> None:
        """Write what has been heard, once it has settled, and at most once a second."""
        now_s = self._monotonic()
        if not self.waits:
            self._write_s = None
            return
        if self._write_s is None:
            self._write_s = max(now_s + SETTLE_S, self._written_s + _MESSAGE_S)
        if now_s >= self._write_s:
            self._write_s, self._written_s = None, now_s
            for name in self._hearings:
                self._keep(name)

    def _keep(self, name: str) -> None:
        case, hearing = self._cases[name], self._hearings[name]
        try:
            case.write(hearing.over(case.journal))
            hearing.written()
        except StoreError as error:
            case.complain(error)

    def _obey(self) -> None:
        """Carry out commands, on top of what has been heard before; one write a second."""
        now_s = self._monotonic()
        if now_s < self._obeyed_s + _MESSAGE_S:
            return
        given: dict[str, list[Arrival]] = {}
        for arrival in self._inbox.commands():
            if arrival.address is None or arrival.address.model not in self._cases:
                arrival.message.acknowledge()
            else:
                given.setdefault(arrival.address.model, []).append(arrival)
        for name, arrivals in given.items():
            self._obeyed_s = now_s
            self._carry_out(name, arrivals)

    def _carry_out(self, name: str, arrivals: list[Arrival]) -> None:
        case, hearing = self._cases[name], self._hearings[name]
        journal, obeyed = hearing.over(case.journal), []
        for arrival in arrivals:
            try:
                journal = self._commanded(journal, arrival)
                obeyed.append(arrival)
            except MessageError as error:
                self._refuse(arrival, error)
            except Exception:
                arrival.message.acknowledge()
                raise
        try:
            case.write(journal)
        except StoreError as error:
            case.complain(error)
            self._inbox.put_back(obeyed)
            return
        hearing.written()
        for arrival in obeyed:
            arrival.message.acknowledge()

    def _commanded(self, journal: Journal, arrival: Arrival) -> Journal:
        if arrival.refused is not None:
            raise arrival.refused
        command = parse_command(arrival.message.payload)
        if isinstance(command, Cancel):
            return cancel(journal, command, self._moment().now_ms)
        return roll_back(journal, command, self._moment())

    def _refuse(self, arrival: Arrival, error: MessageError) -> None:
        """Have a message answered that cannot be taken: it would be no better if it came again."""
        if len(self._refused) < _MOST_REFUSED:
            self._refused.append((arrival.message.topic, error))
        arrival.message.acknowledge()

    def _reply(self) -> None:
        now_s = self._monotonic()
        if not self._refused or now_s < self._answered_s + _MESSAGE_S:
            return
        topic, error = self._refused[0]
        if self._answer(topic, error.reason, error.explain()):
            self._refused.popleft()
            self._answered_s = now_s
            log.warning("%s: %s (%s)", topic, error.explain(), error.reason)
