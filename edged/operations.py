"""What the daemon does for models when it is asked over the control socket.

Arguments come from outside: each is looked at here, once, before anything is done with it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from edged.control import FILE, Operation
from edged.drift.commands import Action
from edged.errors import ControlError, MessageError, StoreError
from edged.models.desired import ID, Source
from edged.models.package import read_package
from edged.models.stick import packages_in
from edged.models.version import Version

Answer = dict[str, object]


class Updates(Protocol):
    """Whoever may write what is known about models.

    All of it may be called from any thread, raises EdgedError, and returns what JSON can carry:
    `models`, `deployments`, `model` or `deployment`, as `models.overview` tells them.
    """

    def models(self) -> Answer:
        """Return the versions of every model."""

    def deployments(self, model: str | None = None) -> Answer:
        """Return how deployments ended and what is under way, of one model or all."""

    def install(self, model: str, path: str, bare: bool) -> Answer:
        """Begin to install a file: what a stick carries, or with `bare` a package, unsigned.

        The path has no name that means anything, and leads nowhere once this has returned.
        """

    def roll_back(self, model: str) -> Answer:
        """Begin to return to the version before."""

    def mark(self, model: str, version: str, bad: bool | None) -> Answer:
        """Mark a version bad or good, or with None lift its mark."""

    def cancel(self, model: str, deployment_id: str) -> Answer:
        """Give a deployment up."""

    def forget_order(self, model: str, source: str) -> Answer:
        """Let a source's next Desired count whatever its order."""


def update_operations(updates: Callable[[], Updates]) -> dict[str, Operation]:
    """Return the operations on models, by the names that requests use.

    Args:
        updates: returns those of the configuration that runs now.
    """

    def install(given: Answer) -> Answer:
        descriptor, bare = given.get(FILE), _flag(given, "bare")
        if not isinstance(descriptor, int):
            raise _wrong("no file came with the request")
        _check_file(descriptor)
        path = _path(descriptor)
        model = _name(given) if _has(given, "model") else _meant(updates().models(), path, bare)
        return updates().install(model, path, bare)

    def mark(given: Answer) -> Answer:
        bad = _flag(given, "bad") if _has(given, "bad") else None
        return updates().mark(_name(given), _version(given), bad)

    def deployments(given: Answer) -> Answer:
        return updates().deployments(_name(given) if _has(given, "model") else None)

    return {
        "models": lambda _: updates().models(),
        "deployments": deployments,
        "install": install,
        "roll_back": lambda given: updates().roll_back(_name(given)),
        "mark": mark,
        "cancel": lambda given: updates().cancel(_name(given), _id(given)),
        "forget_order": lambda given: updates().forget_order(_name(given), _source(given)),
    }


class Drift(Protocol):
    """Whoever knows how cameras stand. From any thread; raises EdgedError."""

    def standings(self) -> list[Answer]:
        """Return how all cameras stand."""

    def obey(self, camera: str, action: Action) -> Answer:
        """Acknowledge an alarm, or begin a new reference; return how the camera stands then."""


def drift_operations(drift: Callable[[], Drift]) -> dict[str, Operation]:
    """Return the operations on drift, by the names that requests use.

    Args:
        drift: returns that of the configuration that runs now.
    """

    def obey(given: Answer, action: Action) -> Answer:
        return {"camera": drift().obey(_text(given, "camera"), action)}

    return {
        "drift": lambda _: {"cameras": drift().standings()},
        "drift_acknowledge": lambda given: obey(given, "acknowledge"),
        "drift_reset": lambda given: obey(given, "reset_reference"),
    }


def _meant(answer: Answer, path: str, bare: bool) -> str:
    """Return the only model, or that which the file is for by its own names."""
    models = answer.get("models")
    names = [str(model["model"]) for model in models] if isinstance(models, list) else []
    if len(names) == 1:
        return names[0]
    file = Path(path)
    found = {read_package(file).manifest.name} if bare else {name for name, _ in packages_in(file)}
    meant = [name for name in names if name in found]
    if len(meant) == 1:
        return meant[0]
    if found and not meant:
        words = f"the file is for {', '.join(sorted(found))}; there is: {', '.join(names)}"
        raise MessageError("model_unknown", f"{words}.")
    raise _wrong(f"say with --model which model it is for: {', '.join(meant or names)}")


def _path(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _check_file(descriptor: int) -> None:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise _wrong("what came with the request is no ordinary file")
    if not os.access(_path(descriptor), os.R_OK):
        raise StoreError(
            "file_unreadable",
            "the service's user may not read this file.",
            advice="Give it the right: chmod o+r FILE.",
        )


def _has(given: Mapping[str, object], key: str) -> bool:
    return given.get(key) is not None


def _text(given: Mapping[str, object], key: str) -> str:
    value = given.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise _wrong(f"{key} is no text of 1 to 64 characters")
    return value


def _name(given: Mapping[str, object]) -> str:
    # Whether a model is called so is for those to say who know the models.
    return _text(given, "model")


def _version(given: Mapping[str, object]) -> str:
    text = _text(given, "version")
    try:
        return Version(text).text
    except ValueError:
        raise _wrong(f"{text!r} is no version") from None


def _id(given: Mapping[str, object]) -> str:
    text = _text(given, "deployment_id")
    if not ID.fullmatch(text):
        raise _wrong(f"{text!r} is no id of a deployment")
    return text


def _source(given: Mapping[str, object]) -> str:
    text = _text(given, "source")
    if text not in set(Source):
        raise _wrong(f"a source is one of {', '.join(Source)}")
    return text


def _flag(given: Mapping[str, object], key: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise _wrong(f"{key} is neither true nor false")
    return value


def _wrong(what: str) -> ControlError:
    return ControlError("argument_invalid", f"{what}.")
