"""One connection with the broker, from TCP to its end: the only module that knows paho.

A connection is never reused: each attempt is a new paho client, so nothing of an old one (its
queue, its reconnecting, its order) gets in the way. What happens on paho's thread is left in
plain attributes for the session's thread to read, after a call of `wake`. The callbacks take
no lock: paho calls them while it holds its own.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

from paho.mqtt.client import (
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edged.config import MqttConfig
from edged.errors import DeviceError
from edged.mqtt import reasons
from edged.mqtt.credentials import TlsSocket, read_password, tls_context
from edged.mqtt.inbound import Inbound
from edged.mqtt.status import Version

SESSION_EXPIRY_S = 24 * 3600
WINDOW = 200
# What comes in: most messages that are not acknowledged, and the largest packet. MQTT 5 brokers
# keep back what is more, and drop what is larger. The largest that means anything has 64 KiB;
# what is a little larger is worth an answer.
INBOUND_WINDOW = 32
_INBOUND_PACKET_BYTES = 256 * 1024
# An MQTT header of PUBLISH: type, length, topic length, packet id, no properties.
_HEADER_BYTES = 16
_FAILURE = 0x80
_KEEP_ALIVE_TIMEOUT = 0x8D


class Connection:
    """One attempt to talk to the broker.

    Args:
        config: `[mqtt]`.
        client_id: the device id.
        version: of the protocol.
        will: topic and payload that the broker publishes, retained, when it loses us; None for
            a mere try, of which the broker keeps nothing.
        on_message: called on paho's thread with this connection and a message; must not raise.
            Whoever deals with a message acknowledges it, which never reaches another connection.
        wake: called on paho's thread after something happened; for acknowledgements see below.
        connect_limit_s: for each of TCP and TLS.

    Attributes:
        accepted: the broker's CONNACK was a success.
        window: most unacknowledged messages, the broker's Receive Maximum respected.
        acks: (message id, reason code) of messages that are done; 0x80 and above is a failure.
        calls_on_ack: whether `wake` is called for each of those. On a healthy connection nobody
            waits for them, and waking a thread costs more than the message.
        subacks: reason codes by message id of the SUBSCRIBE.
    """

    def __init__(
        self,
        config: MqttConfig,
        *,
        client_id: str,
        version: Version,
        will: tuple[str, bytes] | None,
        on_message: Callable[[Connection, Inbound], None],
        wake: Callable[[], None],
        connect_limit_s: float,
    ) -> None:
        self._config = config
        self._version = version
        self._passing = will is None
        self._on_message_of_session = on_message
        self._wake = wake
        self._ended: DeviceError | None = None
        self._thread: threading.Thread | None = None
        self._socket: object = None
        self._max_packet_bytes: int | None = None
        self.accepted = False
        self.window = WINDOW
        self.acks: deque[tuple[int, int]] = deque()
        self.calls_on_ack = True
        self.subacks: dict[int, list[int]] = {}
        self._unacknowledged: dict[int, Callable[[], None]] = {}
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=None if version == "5" else will is None,
            protocol=MQTTProtocolVersion.MQTTv5 if version == "5" else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        # The session never has more than the window on its way: paho queues nothing itself.
        client.max_inflight_messages_set(WINDOW + 1)
        client.max_queued_messages_set(2 * WINDOW)
        client.connect_timeout = connect_limit_s
        if will is not None:
            client.will_set(*will, qos=1, retain=True)
        client.on_socket_open = self._on_socket_open
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        self._client = client

    @property
    def ended(self) -> DeviceError | None:
        """Why the connection is over, or None while it is not."""
        if self._ended is None and self._thread is not None and not self._thread.is_alive():
            # paho's thread ends without a callback on some errors.
            self._ended = reasons.closed(accepted=self.accepted, tls=self._config.tls)
        return self._ended

    def open(self) -> None:
        """Connect, shake hands and send CONNECT; blocks up to the limit for each of them.

        Raises:
            DeviceError: `broker_*`, also where a password or certificate file is unreadable.
        """
        config, client = self._config, self._client
        if config.username is not None:
            client.username_pw_set(config.username, read_password(config.password_file))
        if config.tls:
            client.tls_set_context(tls_context(config))
        extra: dict[str, Any] = {}
        if self._version == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0 if self._passing else SESSION_EXPIRY_S
            properties.ReceiveMaximum = INBOUND_WINDOW
            properties.MaximumPacketSize = _INBOUND_PACKET_BYTES
            extra = {"clean_start": self._passing, "properties": properties}
        try:
            client.connect(config.host, config.effective_port, config.keepalive_s, **extra)
            client.loop_start()
        except (OSError, ValueError) as error:  # ValueError: a host that is no name (IDNA)
            raise self._unreachable(error) from error

    def subscribe(self, topics: list[str], *, qos: int = 1) -> set[int]:
        """Ask for `topics`; returns the ids that will appear in `subacks`.

        One SUBSCRIBE for each: some brokers allow few topics in one.
        """
        ids = (self._client.subscribe(topic, qos=qos)[1] for topic in topics)
        return {number for number in ids if number is not None}

    def unsubscribe(self, topic: str) -> None:
        """Ask for no more on `topic`."""
        self._client.unsubscribe(topic)

    def fits(self, topic: str, payload: bytes) -> bool:
        """Return whether the broker takes packets as large as this one."""
        size = len(topic.encode()) + len(payload) + _HEADER_BYTES
        return self._max_packet_bytes is None or size <= self._max_packet_bytes

    def send(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> int:
        """Hand a message to paho without waiting; returns the id that will appear in `acks`."""
        info = self._client.publish(topic, payload, qos, retain)
        if info.rc not in (MQTTErrorCode.MQTT_ERR_SUCCESS, MQTTErrorCode.MQTT_ERR_NO_CONN):
            # paho did not take it, so it would never be acknowledged: begin anew.
            self.abort()
        return info.mid

    def disconnect(self) -> None:
        """Say goodbye: the broker forgets the will."""
        self._client.disconnect()

    def abort(self) -> None:
        """Cut the connection without a goodbye: the broker publishes the will."""
        open_socket = self._client.socket()
        if isinstance(open_socket, socket.socket):
            with contextlib.suppress(OSError):
                socket.socket.shutdown(open_socket, socket.SHUT_RDWR)

    def close(self) -> None:
        """Free the sockets and end paho's thread, once; waits for a handler that is running."""
        client = self._client
        self.abort()
        # loop_stop trips over its own thread when that ends at the same moment.
        with contextlib.suppress(AttributeError):
            client.loop_stop()
        # The last reference to it: its remaining sockets close now, not when garbage is collected.
        client.on_connect = client.on_disconnect = client.on_publish = None
        client.on_subscribe = client.on_message = client.on_socket_open = None
        del self._client
        self._socket = None
        self._unacknowledged.clear()

    def _on_socket_open(self, _client: Client, _userdata: object, opened: object) -> None:
        self._socket = opened
        if isinstance(opened, socket.socket):
            # Small messages, soon followed by others: waiting for more gains nothing.
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _on_connect(
        self,
        _client: Client,
        _userdata: object,
        _flags: ConnectFlags,
        code: ReasonCode,
        properties: Properties | None,
    ) -> None:
        self._thread = threading.current_thread()
        self._thread.name = "mqtt-io"
        if code.value >= _FAILURE:
            self._ended = reasons.refused(code.value, code.getName())
        else:
            self.window = min(WINDOW, getattr(properties, "ReceiveMaximum", WINDOW))
            self._max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
            self.accepted = True
        self._wake()

    def _on_disconnect(
        self,
        _client: Client,
        _userdata: object,
        flags: DisconnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if self._ended is None:
            self._ended = self._why_ended(flags, code)
        self._wake()

    def _why_ended(self, flags: DisconnectFlags, code: ReasonCode) -> DeviceError:
        config = self._config
        trouble = self._socket.trouble if isinstance(self._socket, TlsSocket) else None
        if flags.is_disconnect_packet_from_server:
            return reasons.disconnected(code.value, code.getName())
        if trouble is not None and not self.accepted:
            return self._unreachable(trouble)
        if code.value == _KEEP_ALIVE_TIMEOUT:
            return reasons.frozen()
        if self._version == "3.1.1" and not self.accepted and code.getName() == "Protocol error":
            # paho gives no on_connect for this one refusal.
            return reasons.refused(0x84, "Unsupported protocol version")
        return reasons.closed(accepted=self.accepted, tls=config.tls)

    def _unreachable(self, error: Exception) -> DeviceError:
        config = self._config
        return reasons.unreachable(
            error, host=config.host, port=config.effective_port, tls=config.tls
        )

    def _on_publish(
        self, _client: Client, _userdata: object, mid: int, code: ReasonCode, _properties: object
    ) -> None:
        self.acks.append((mid, code.value))
        if self.calls_on_ack:  # read after the append: see Traffic.may_pause
            self._wake()

    def _on_subscribe(
        self,
        _client: Client,
        _userdata: object,
        mid: int,
        codes: list[ReasonCode],
        _properties: object,
    ) -> None:
        self.subacks[mid] = [code.value for code in codes]
        self._wake()

    def _on_message(self, client: Client, _userdata: object, message: MQTTMessage) -> None:
        done = self._acknowledgement(client, message.mid, message.qos) if message.qos else None
        inbound = Inbound(message.topic, bytes(message.payload), message.retain, done)
        self._on_message_of_session(self, inbound)

    def _acknowledgement(self, client: Client, mid: int, qos: int) -> Callable[[], None]:
        """Return what acknowledges the message that just came, and no other with the same id.

        The id is the broker's to use again once it has the acknowledgement, and each connection
        has its own.
        """
        # What waits for its acknowledgement must not keep the sockets of a closed client open.
        line, waiting = weakref.ref(client), self._unacknowledged

        def done() -> None:
            if waiting.get(mid) is done:
                waiting.pop(mid, None)  # it may have been closed meanwhile
                if (alive := line()) is not None:
                    alive.ack(mid, qos)

        waiting[mid] = done
        return done
