"""What `edged doctor` finds where the service, another user, has or may what this user has not."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from edged.config import Config, MqttConfig
from edged.control_client import ask
from edged.control_wire import Request
from edged.errors import ControlError
from edged.lock import is_locked
from edged.machinefindings import Finding
from edged.mqtt.attempt import try_broker
from edged.mqtt.credentials import outside_unit

_ANSWER_S = 3.0
_CONNECT_S = 3.0


def service_status(config: Config) -> dict[str, object]:
    """Return what the service says of itself; nothing where none runs, or this user may not ask."""
    try:
        return ask(Path(config.runtime_dir), Request("status", {}), answer_s=_ANSWER_S)
    except ControlError:
        return {}


def broker(mqtt: MqttConfig, client_id: str, status: dict[str, object]) -> Finding:
    """Try the broker or, where the service alone has what that takes, say what it says.

    Args:
        mqtt: `[mqtt]`.
        client_id: not the device's own.
        status: what the service says.
    """
    place = f"{mqtt.host}:{mqtt.effective_port}"
    mqtt, withheld = outside_unit(mqtt)
    if not withheld:
        refused = try_broker(mqtt, client_id, _CONNECT_S)
        if refused is None:
            return Finding("ok", "broker", "ok", f"{place} accepts this device.")
        return Finding("fail", "broker", refused.reason, f"{place}: {refused.detail}")
    told = status.get("broker")
    said = told if isinstance(told, dict) else {}
    reason, detail = str(said.get("reason") or ""), str(said.get("detail") or "")
    who = f"Only the service has {withheld}"
    if reason:
        return Finding("fail", "broker", reason, f"{place}: {who}, and it says: {detail}")
    if said.get("state") == "connected":
        return Finding("ok", "broker", "ok", f"{place}: {who}, and it is connected.")
    hint = "" if os.geteuid() == 0 else " Root may have it as well: sudo edged doctor"
    return Finding("warn", "broker", "not_tried", f"{place}: not tried. {who}.{hint}")


def directories(config: Config, status: dict[str, object]) -> list[Finding]:
    """Look whether the service may write where it has to.

    Args:
        config: names the directories.
        status: what the service says.
    """
    state_dir, runtime_dir = Path(config.state_dir), Path(config.runtime_dir)
    runs = bool(status) or is_locked(state_dir)
    return [
        _directory("state_dir", state_dir, service_runs=runs),
        _directory("runtime_dir", runtime_dir, service_runs=runs),
    ]


def _directory(name: str, path: Path, *, service_runs: bool) -> Finding:
    place = next((place for place in (path, *path.parents) if os.path.exists(place)), path)  # noqa: PTH110  # no error where it may not look
    if place.is_dir() and os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        words = f"{path} {'may be written' if place == path else 'can be made'}."
        return Finding("ok", name, "ok", words)
    owner = _owner(place)
    if service_runs and owner != os.geteuid():
        return Finding("ok", name, "ok", f"{path} is used by the service, which runs.")
    if place == path and place.is_dir() and owner not in (0, os.geteuid()):
        whether = f"{path} is another user's; whether that one may write there says"
        return Finding("warn", name, "not_tried", f"{whether}: {_as_user(owner)}")
    words = f"This user may not write to {path}. As the service's user: {_as_user(owner)}"
    return Finding("fail", name, "not_writable", words)


def _owner(place: Path) -> int:
    try:
        return place.stat().st_uid
    except OSError:
        return 0


def _as_user(owner: int) -> str:
    """Return how to look as the service's user; directories of nobody else are that one's."""
    try:
        name = pwd.getpwuid(owner).pw_name if owner else "edged"
    except KeyError:
        name = f"'#{owner}'"
    return f"sudo -u {name} edged doctor"
