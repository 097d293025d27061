"""What the daemon does for models when it is asked over the control socket.

Arguments come from outside: each is looked at here, once, before anything is done with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from edged.control import FILE, Operation
from edged.errors import ControlError
from edged.models.desired import ID, Source
from edged.models.version import Version

Answer = dict[str, object]


class Updates(Protocol):
    """Whoever may write what is known about models. All of it may be called from any thread.

    Results are values that JSON can carry: `{"models": [...]}` of `models.overview.overview`,
    `{"deployments": [...]}` of `models.overview.deployments`, otherwise what there is to say.
    All raise EdgedError.
    """

    def models(self) -> Answer:
        """Return the versions of every model."""

    def deployments(self, model: str | None = None) -> Answer:
        """Return what is under way and how the others ended."""

    def install(self, model: str | None, path: Path, *, bare: bool) -> Answer:
        """Install a file: what a stick carries, or with `bare` any model, unsigned.

        Args:
            model: which; None where the file says, or only one is configured.
            path: has no name that means anything, and leads nowhere once this has returned.
            bare: whether the person said so.
        """

    def roll_back(self, model: str) -> Answer:
        """Return to the version before."""

    def mark(self, model: str, version: str, *, bad: bool | None) -> Answer:
        """Mark a version bad or good, or with None lift its mark."""

    def cancel(self, model: str, deployment_id: str) -> Answer:
        """Give a deployment up."""

    def forget_order(self, model: str, source: Source) -> Answer:
        """Let a source's next wish count whatever its order."""


def update_operations(updates: Updates) -> dict[str, Operation]:
    """Return the operations on models, by the names that requests use."""

    def install(given: Mapping[str, object]) -> Answer:
        if FILE not in given:
            raise _wrong("no file came with the request")
        model = None if given.get("model") is None else _name(given)
        return updates.install(model, Path(str(given[FILE])), bare=_flag(given, "bare"))

    def mark(given: Mapping[str, object]) -> Answer:
        bad = None if given.get("bad") is None else _flag(given, "bad")
        return updates.mark(_name(given), _version(given), bad=bad)

    def deployments(given: Mapping[str, object]) -> Answer:
        return updates.deployments(None if given.get("model") is None else _name(given))

    return {
        "models": lambda _: updates.models(),
        "deployments": deployments,
        "install": install,
        "roll_back": lambda given: updates.roll_back(_name(given)),
        "mark": mark,
        "cancel": lambda given: updates.cancel(_name(given), _id(given)),
        "forget_order": lambda given: updates.forget_order(_name(given), _source(given)),
    }


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
        raise _wrong("deployment_id is none")
    return text


def _source(given: Mapping[str, object]) -> Source:
    text = _text(given, "source")
    try:
        return Source(text)
    except ValueError:
        raise _wrong(f"source is none of {', '.join(Source)}") from None


def _flag(given: Mapping[str, object], key: str) -> bool:
    value = given.get(key, False)
    if not isinstance(value, bool):
        raise _wrong(f"{key} is neither true nor false")
    return value


def _wrong(what: str) -> ControlError:
    return ControlError("argument_invalid", f"{what}.")
