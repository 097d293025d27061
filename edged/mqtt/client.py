"""The session with the broker: outlives every connection.

One thread, `mqtt`, connects, and connects again. On every connection, in this order: subscribe,
retained state, `online`, backlog, live.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Literal

from edged.config import MqttConfig
from edged.errors import DeviceError, StoreError
from edged.mqtt import reasons
from edged.mqtt.connection import Connection
from edged.mqtt.inbound import Inbound
from edged.mqtt.messages import OFFLINE, Topics
from edged.mqtt.outbox import Entry, Kind, Outbox
from edged.mqtt.spool import Spool
from edged.mqtt.status import Condition, SessionStatus, State, Timing, Version
from edged.mqtt.traffic import Traffic

__all__ = ["Handler", "Session", "SessionStatus", "Timing"]

Handler = Callable[[Inbound], None]

_LOG = logging.getLogger(__name__)

# Reason codes from here on are failures, MQTT 5 section 2.4.
_FAILURE = 0x80


class Session:
    """Publishes, subscribes and stays connected.

    Args:
        config: `[mqtt]`.
        topics: of this device; its id is the client id.
        outbox: where messages wait; None for an empty one, as large as configured.
        spool: keeps the outbox on disk; started and stopped by whoever made it. None for none.
        timing: how long to wait.
        monotonic: seconds.
        chance: random number in 0..1, for jitter.
    """

    def __init__(
        self,
        config: MqttConfig,
        topics: Topics,
        *,
        outbox: Outbox | None = None,
        spool: Spool | None = None,
        timing: Timing | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._topics = topics
        self._timing = timing or Timing()
        self._monotonic = monotonic
        self._chance = chance
        if outbox is None:
            outbox = Outbox(config.outbox_messages, config.outbox_bytes)
        self._traffic = Traffic(topics.available, outbox, monotonic)
        self._spool = spool
        if spool is not None:
            spool.follow(self._traffic)
        self._handlers: dict[str, Handler] = {}
        self._stray: Handler = Inbound.acknowledge
        self._handler_errors = 0
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._starting = threading.Lock()
        self._stopping = threading.Event()
        self._stop_by_mono_s = float("inf")
        self._wake = threading.Event()
        # The rest is written by the thread alone; the condition is read as one reference.
        self._version: Version = "3.1.1" if config.version == "3.1.1" else "5"
        self._version_known = config.version != "auto"
        self._falling_back = False  # the next attempt is the same one with the older version
        self._protocol: Version | Literal[""] = ""
        self._connects = 0
        self._condition = Condition("stopped", "", "", monotonic())

    def subscribe(self, topic: str, handler: Handler) -> None:
        """Have `handler` called with each message; before `start`.

        It runs on the network thread, so it must not block. What it raises is logged and counted.
        It must see to it that every message is acknowledged in the end: the broker sends no more
        than a few beyond that.

        Raises:
            ValueError: a wildcard in `topic`.
            RuntimeError: the session has started.
        """
        _check_topic(topic)
        if self._thread.ident is not None:
            raise RuntimeError("subscribe before start")
        self._handlers[topic] = handler

    def on_stray(self, handler: Handler) -> None:
        """Have `handler` called with what an earlier configuration subscribed to; before `start`.

        The subscription ends with the first message.
        """
        self._stray = handler

    def start(self) -> None:
        """Start connecting; returns at once. A second call, or one after `stop`, does nothing."""
        with self._starting:
            if self._thread.ident is None and not self._stopping.is_set():
                self._thread.start()

    def stop(self, deadline_s: float) -> bool:
        """Publish `offline`, disconnect and end the thread; a second call only waits.

        What is unacknowledged then is back in the outbox.

        Returns:
            Whether the thread has ended within `deadline_s`. It has not while the system still
            tries to connect or to resolve a name; then it ends as soon as that does.
        """
        with self._starting:
            if not self._stopping.is_set():
                self._stop_by_mono_s = self._monotonic() + deadline_s
                self._stopping.set()
        self._wake.set()
        if self._thread.ident is None:
            return True
        self._thread.join(deadline_s)
        return not self._thread.is_alive()

    def successor(self, config: MqttConfig, topics: Topics, deadline_s: float) -> Session:
        """Stop, and return a session that takes over what waits, for another configuration.

        Messages keep their topics. The new session is not started and has no handlers.
        """
        self.stop(deadline_s)
        outbox = self._traffic.hand_over()
        outbox.set_bounds(config.outbox_messages, config.outbox_bytes)
        return Session(
            config,
            topics,
            outbox=outbox,
            spool=self._spool,
            timing=self._timing,
            monotonic=self._monotonic,
            chance=self._chance,
        )

    def status(self) -> SessionStatus:
        """Return a snapshot of the session."""
        now, counts, connects = self._condition, self._traffic.counts(), self._connects
        return SessionStatus(
            state=now.state,
            reason=now.reason,
            detail=now.detail,
            since_mono_s=now.since_mono_s,
            connects=connects,
            reconnects=max(0, connects - 1),
            protocol=self._protocol,
            queued=counts.queued,
            queued_bytes=counts.queued_bytes,
            stored=0 if self._spool is None else self._spool.stored,
            in_flight=counts.in_flight,
            dropped=counts.dropped,
            handler_errors=self._handler_errors,
            spool_trouble=None if self._spool is None else self._spool.trouble,
        )

    @property
    def online(self) -> bool:
        """Whether the device has said so; before, what is published at QoS 0 is dropped."""
        return self._traffic.online

    def publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool = False, kind: Kind = "other"
    ) -> None:
        """Send `payload`, or keep it until the broker is back (QoS 1), or drop it (QoS 0).

        Never waits for the network.

        Raises:
            ValueError: a wildcard in `topic`, or `qos` is neither 0 nor 1.
        """
        _check_topic(topic)
        if qos not in (0, 1):
            raise ValueError(f"qos is 0 or 1, not {qos}")
        if self._traffic.publish(Entry(topic, payload, qos, retain, self._monotonic(), kind)):
            self._wake.set()

    def publish_durable(self, topic: str, payload: bytes, *, key: str, limit_s: float) -> bool:
        """Publish a result (QoS 1) and wait until no crash and no power cut can lose it.

        While a message with the same key is held, over restarts too, this one is not taken: it is
        the same said again.

        Args:
            topic: where to.
            payload: the bytes.
            key: tells it from all other results.
            limit_s: how long to wait for the disk.

        Returns:
            Whether it is on disk, or acknowledged. If not it is in memory only: say it again.

        Raises:
            StoreError: `outbox_too_small`: it was dropped, and would be if it were said again.
            ValueError: a wildcard in `topic`.
        """
        _check_topic(topic)
        entry = Entry(topic, payload, 1, False, self._monotonic(), "result", key)
        if self._traffic.publish(entry):
            self._wake.set()
        if entry.too_large:
            raise StoreError(
                "outbox_too_small",
                f"{topic}: {entry.size_bytes} bytes are more than outbox or broker take.",
                advice="Raise outbox_bytes under [mqtt], or the broker's largest packet.",
            )
        return self._spool is not None and self._spool.settle(limit_s)

    def set_retained(self, topic: str, payload: bytes) -> None:
        """Have `topic` hold `payload`: sent now if it changed, and again on every connection.

        Raises:
            ValueError: a wildcard in `topic`.
        """
        _check_topic(topic)
        if self._traffic.set_retained(topic, payload):
            self._wake.set()

    def _run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = self._monotonic()
            self._become("connecting", self._condition.reason, self._condition.detail)
            if self._connect_once() and self._monotonic() - began >= self._timing.lasted_s:
                failures = 0
            if self._falling_back:
                continue  # at once: the broker is there
            failures += 1
            if not self._stopping.is_set():
                self._become("waiting", self._condition.reason, self._condition.detail)
                self._stopping.wait(self._timing.pause_s(failures, self._chance()))
        self._become("stopped", "", "")

    def _connect_once(self) -> bool:
        """Carry one connection from its beginning to its end; return whether it was accepted."""
        line = Connection(
            self._config,
            client_id=self._topics.device,
            version=self._version,
            will=(self._topics.available, OFFLINE),
            on_message=self._receive,
            wake=self._wake.set,
            connect_limit_s=self._timing.connect_s,
        )
        try:
            line.open()
            limit_s = self._timing.answer_s if self._version_known else self._timing.guess_s
            self._await(line, "CONNACK", limit_s, lambda: line.accepted)
            if line.accepted:
                self._protocol, self._version_known = self._version, True
                self._falling_back = False
                self._settle(line)
                self._carry(line)
                self._say_goodbye(line)
        except DeviceError as error:
            if not self._fall_back(error):
                self._note_failure(error)
        finally:
            self._traffic.shut()
            line.close()
            self._traffic.collect(line)
            ended = line.ended
            self._traffic.put_back(hung_up=ended is not None and ended.reason != "broker_timeout")
        return line.accepted

    def _await(self, line: Connection, what: str, limit_s: float, done: Callable[[], bool]) -> None:
        """Wait until `done`, or until the session stops.

        Raises:
            DeviceError: the connection ended, or the limit for an answer is over.
        """
        limit = self._monotonic() + limit_s
        while not self._stopping.is_set():
            self._wake.clear()
            if done():
                return
            if line.ended is not None:
                raise line.ended
            left = limit - self._monotonic()
            if left <= 0:
                raise reasons.silent(what, limit_s)
            self._wake.wait(min(left, 1.0))

    def _settle(self, line: Connection) -> None:
        """Subscribe, then let the traffic begin."""
        asked = line.subscribe(list(self._handlers))
        limit_s = self._timing.answer_s
        self._await(line, "SUBACK", limit_s, lambda: asked <= line.subacks.keys())
        if self._stopping.is_set():
            return
        self._traffic.open(line)
        self._connects += 1
        _LOG.info("connected to %s with MQTT %s", self._config.host, self._version)
        if any(code >= _FAILURE for codes in line.subacks.values() for code in codes):
            detail = "The broker refused a subscription: check its permissions for this device."
            _LOG.warning("%s", detail)
            self._become("connected", "broker_refused_subscription", detail)
        else:
            self._become("connected", "", "")

    def _carry(self, line: Connection) -> None:
        """Keep messages moving until the session stops.

        Raises:
            DeviceError: the connection ended.
        """
        while not self._stopping.is_set():
            self._wake.clear()
            if line.ended is not None:
                raise line.ended
            self._traffic.collect(line)
            while self._traffic.send_next() and not self._stopping.is_set():
                self._traffic.collect(line)
            if self._traffic.may_pause():
                self._wake.wait(1.0)

    def _say_goodbye(self, line: Connection) -> None:
        """Send what waits, `offline`, and disconnect; where the broker is mute, the will speaks."""
        now = self._monotonic()
        limit = min(now + self._timing.farewell_s, self._stop_by_mono_s)
        halfway = now + (limit - now) / 2
        line.calls_on_ack = True
        self._traffic.collect(line)
        while not self._traffic.drained and self._pass_time(line, until=halfway):
            while self._monotonic() < halfway and self._traffic.send_next():
                self._traffic.collect(line)
        self._traffic.say_offline(line)
        while not self._traffic.quiet and self._pass_time(line, until=limit):
            pass
        line.disconnect()
        while self._pass_time(line, until=limit):
            pass

    def _pass_time(self, line: Connection, *, until: float) -> bool:
        """Wait for something to happen on `line`; False once it ended or time is up."""
        left = until - self._monotonic()
        if line.ended is not None or left <= 0:
            return False
        self._wake.wait(min(left, 0.05))
        self._wake.clear()
        self._traffic.collect(line)
        return True

    def _receive(self, line: Connection, message: Inbound) -> None:
        handler = self._handlers.get(message.topic)
        try:
            if handler is None:
                line.unsubscribe(message.topic)
                self._stray(message)
            else:
                handler(message)
        except Exception:  # noqa: BLE001 - whatever a handler raises ends here
            self._handler_errors += 1
            _LOG.exception("the handler of %s failed", message.topic)
            message.acknowledge()  # it would fail again

    def _fall_back(self, error: DeviceError) -> bool:
        """Choose the version for the next attempt; return whether that is the older one."""
        if self._version_known:
            return False
        self._falling_back = self._version == "5" and error.reason in reasons.MAYBE_VERSION
        self._version = "3.1.1" if self._falling_back else "5"
        if self._falling_back:
            _LOG.info("%s Trying MQTT %s.", error, self._version)
        return self._falling_back

    def _note_failure(self, error: DeviceError) -> None:
        before = self._condition
        if before.state == "connected" or before.reason != error.reason:
            _LOG.warning("not connected to the broker (%s): %s", error.reason, error.explain())
        self._become("waiting", error.reason, error.explain())

    def _become(self, state: State, reason: str, detail: str) -> None:
        before = self._condition
        same = (state == "connected") == (before.state == "connected")
        since_mono_s = before.since_mono_s if same else self._monotonic()
        self._condition = Condition(state, reason, detail, since_mono_s)


def _check_topic(topic: str) -> None:
    if not topic or "+" in topic or "#" in topic:
        raise ValueError(f"not a topic to publish to or subscribe exactly: {topic!r}")
