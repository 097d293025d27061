"""A fleet as its messages tell it: topics and payloads, folded into what is known. Pure.

Anybody with access to the broker may have written what arrives, under any name. What no device
would send is counted and passed over, texts lose their control characters here, and all of it is
bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Literal

from edged.errors import MessageError
from edged.models.desired import Desired, parse_desired
from edged.models.records import STATUS, State
from edged.models.strictjson import StrictJsonError
from edged.operator.fleetsaid import Fields, Said, error_said, fields_of, text_of, update_said

MOST_DEVICES = 50_000
_MOST_MODELS = 64
_MOST_ENDINGS = 64
_MOST_GROUPS = 64
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
# How a device that fell back by itself names it.
_OWN_FALLBACK = "auto-"


@dataclass(slots=True)
class SeenModel:
    """One model of a device: versions, "" where there is none, and how its deployments went.

    Attributes:
        last: the newest state, or None.
        progress: percent fetched of the deployment in `last`.
        endings: how deployments ended, by id, the newest last.
    """

    active: str = ""
    previous: str = ""
    trial: str = ""
    latest: str = ""
    last: Said | None = None
    progress: int | None = None
    endings: dict[str, Said] = field(default_factory=dict)


@dataclass(slots=True)
class SeenDevice:
    """One device; `online` is None where it has not said."""

    name: str
    online: bool | None = None
    edged: str = ""
    groups: tuple[str, ...] = ()
    models: dict[str, SeenModel] = field(default_factory=dict)


class Fleet:
    """What is known of all devices.

    Args:
        prefix: `[mqtt] topic_prefix`.

    Attributes:
        devices: by name.
        desired: the latest Desired by (device id, `@<group>` or `@all`; model).
        ignored: messages that no device or operator's desk would send.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = f"{prefix}/"
        self.devices: dict[str, SeenDevice] = {}
        self.desired: dict[tuple[str, str], Desired] = {}
        self.ignored = 0

    def take(self, topic: str, payload: bytes) -> Said | None:
        """Fold a message in; returns what is worth a line, or None.

        An empty payload is a retained message that was cleared.
        """
        said: Said | None = None
        try:
            said = self._take(topic, payload)
        except (MessageError, StrictJsonError):
            self.ignored += 1
        return said

    def _take(self, topic: str, payload: bytes) -> Said | None:
        if not topic.startswith(self._prefix):
            raise _foreign("of somebody else")
        name, _, tail = topic.removeprefix(self._prefix).partition("/")
        parts = tail.split("/")
        match parts:
            case ["update", model, "desired"] if _is_name(model) and _is_source(name):
                self._take_desired(name, model, payload)
            case _ if not _DEVICE.fullmatch(name):
                raise _foreign("no device is called so")
            case ["available"]:
                return self._take_available(name, payload)
            case ["info"] if not payload:
                pass
            case ["info"]:
                self._take_info(self._device(name), fields_of(payload))
            case ["stats"]:
                self._device(name)
            case ["error"]:
                return error_said(name, fields_of(payload))
            case ["model", model] if _is_name(model):
                self._take_model(name, model, payload)
            case ["update", model, ("state" | "progress" | "result")] if not payload:
                pass
            case ["update", model, ("state" | "progress" | "result") as kind] if _is_name(model):
                return self._take_update(name, model, kind, fields_of(payload))
            case _:
                raise _foreign("no topic of edged")
        return None

    def model(self, device: str, model: str) -> SeenModel | None:
        """Return what is known of a device's model, or None."""
        seen = self.devices.get(device)
        return None if seen is None else seen.models.get(model)

    def ending(self, device: str, model: str, deployment_id: str) -> Said | None:
        """Return how a deployment ended, or None.

        A version that was committed and that the device then left by itself has not succeeded.
        """
        seen = self.model(device, model)
        if seen is None or (ended := seen.endings.get(deployment_id)) is None:
            return None
        last = seen.last
        if (
            ended.word == "SUCCEEDED"
            and last is not None
            and last.deployment_id.startswith(_OWN_FALLBACK)
            and last.version == ended.version
        ):
            return replace(ended, word="ROLLED_BACK", reason=last.reason, detail="afterwards")
        return ended

    def _device(self, name: str) -> SeenDevice:
        if name not in self.devices:
            if len(self.devices) >= MOST_DEVICES:
                raise _foreign("more devices than anybody has")
            self.devices[name] = SeenDevice(name)
        return self.devices[name]

    def _model(self, device: str, model: str) -> SeenModel:
        models = self._device(device).models
        if model not in models and len(models) >= _MOST_MODELS:
            raise _foreign("more models than a device has")
        return models.setdefault(model, SeenModel())

    def _take_desired(self, name: str, model: str, payload: bytes) -> None:
        if not payload:
            self.desired.pop((name, model), None)
        elif len(self.desired) >= MOST_DEVICES and (name, model) not in self.desired:
            raise _foreign("more devices than anybody has")
        else:
            self.desired[name, model] = parse_desired(payload)

    def _take_available(self, name: str, payload: bytes) -> Said | None:
        if not payload:
            self.devices.pop(name, None)
            return None
        if payload not in (b"online", b"offline"):
            raise _foreign("neither online nor offline")
        device, online = self._device(name), payload == b"online"
        if device.online is online:
            return None
        device.online = online
        return Said(name, "available", word=payload.decode())

    def _take_info(self, device: SeenDevice, said: Fields) -> None:
        versions, groups = said.get("versions"), said.get("groups")
        device.edged = text_of(versions, "edged") if isinstance(versions, dict) else ""
        known = groups[:_MOST_GROUPS] if isinstance(groups, list) else []
        device.groups = tuple(one for one in known if isinstance(one, str) and _is_name(one))

    def _take_model(self, name: str, model: str, payload: bytes) -> None:
        if not payload:
            if (device := self.devices.get(name)) is not None:
                device.models.pop(model, None)
            return
        said = fields_of(payload)
        seen = self._model(name, model)
        seen.active, seen.previous, seen.trial = (
            text_of(said.get(role), "version") for role in ("active", "previous", "trial")
        )
        seen.latest = text_of(said, "latest")

    def _take_update(
        self, name: str, model: str, kind: Literal["state", "progress", "result"], fields: Fields
    ) -> Said | None:
        seen, said = self._model(name, model), update_said(name, model, kind, fields)
        if kind == "progress":
            seen.progress = said.percent
            return said
        if not said.deployment_id:
            return None  # IDLE: there was none yet
        if kind == "result":
            _end(seen, said)
            return said
        before, seen.last = seen.last, said
        if before is None or before.deployment_id != said.deployment_id:
            seen.progress = None
        if said.word in STATUS and said.deployment_id not in seen.endings:
            # The result itself, with its detail, may follow, or was said before we listened.
            _end(seen, replace(said, word=STATUS[State(said.word)]))
        return said if said != before else None


def _end(seen: SeenModel, said: Said) -> None:
    seen.endings.pop(said.deployment_id, None)
    seen.endings[said.deployment_id] = said
    if len(seen.endings) > _MOST_ENDINGS:
        del seen.endings[next(iter(seen.endings))]


def _foreign(why: str) -> MessageError:
    return MessageError("message_malformed", why)


def _is_name(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


def _is_source(name: str) -> bool:
    return _DEVICE.fullmatch(name) is not None or (name[:1] == "@" and _is_name(name[1:]))
