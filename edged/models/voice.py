"""What the updater says, over the session with the broker."""

from __future__ import annotations

from edged.models.journal import Journal
from edged.models.records import Result
from edged.mqtt.client import Session
from edged.mqtt.messages import Topics, encode_model_state
from edged.mqtt.updates import (
    encode_error,
    encode_progress,
    encode_result,
    encode_state,
    versions_of,
)

# How long to wait for the outbox's disk; a slower one is asked again.
_DISK_S = 2.0


class MqttVoice:
    """Publishes.

    Args:
        session: with the broker.
        topics: of this device.
    """

    def __init__(self, session: Session, topics: Topics) -> None:
        self._session = session
        self._topics = topics

    def error(self, topic: str, reason: str, detail: str) -> bool:
        """Answer a message that cannot be taken; return whether anybody can hear it."""
        if not self._session.online:
            return False
        self._session.publish(self._topics.error, encode_error(topic, reason, detail), qos=0)
        return True

    def journal(self, journal: Journal, latest: str | None) -> None:
        """Tell how deployments and versions of a model stand."""
        state, versions = encode_state(journal), encode_model_state(versions_of(journal, latest))
        self._session.set_retained(self._topics.update(journal.model, "state"), state)
        self._session.set_retained(self._topics.model(journal.model), versions)

    def progress(self, model: str, deployment_id: str, there_bytes: int, total_bytes: int) -> None:
        """Tell how far a download is."""
        payload = encode_progress(deployment_id, there_bytes, total_bytes)
        self._session.publish(self._topics.update(model, "progress"), payload, qos=0)

    def result(self, model: str, result: Result) -> bool:
        """Say how a deployment ended; return whether that cannot get lost any more.

        Raises:
            StoreError: `outbox_too_small`: it cannot be said.
        """
        return self._session.publish_durable(
            self._topics.update(model, "result"),
            encode_result(model, result),
            key=f"{model}/{result.deployment_id}",
            limit_s=_DISK_S,
        )
