"""What the control socket offers around models: requests of any shape become calls."""

from __future__ import annotations

from collections.abc import Callable

from edged.control import FILE, Answer, Operation
from edged.errors import ControlError
from edged.models.local import LocalUpdates


def local_operations(local: Callable[[], LocalUpdates]) -> dict[str, Operation]:
    """Return the operations by name.

    Args:
        local: returns the calls of the configuration that runs now.
    """
    return {
        "models": lambda _: local().models(),
        "deployments": lambda given: local().deployments(_optional(given, "model")),
        "install": lambda given: local().install(
            _text(given, "model"), _text(given, FILE), given.get("bare") is True
        ),
        "roll_back": lambda given: local().roll_back(_text(given, "model")),
        "mark": lambda given: local().mark(
            _text(given, "model"), _text(given, "version"), _verdict(given)
        ),
        "cancel": lambda given: local().cancel(
            _text(given, "model"), _text(given, "deployment_id")
        ),
        "forget_order": lambda given: local().forget_order(
            _text(given, "model"), _text(given, "source")
        ),
    }


def _text(given: Answer, name: str) -> str:
    value = given.get(name)
    if not isinstance(value, str):
        raise ControlError("request_malformed", f"'{name}' must be text")
    return value


def _optional(given: Answer, name: str) -> str | None:
    return None if given.get(name) is None else _text(given, name)


def _verdict(given: Answer) -> bool | None:
    bad = given.get("bad")
    if bad is not None and not isinstance(bad, bool):
        raise ControlError("request_malformed", "'bad' must be true, false or null")
    return bad
