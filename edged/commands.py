"""The commands that speak with the service, or stand in for it where that is safe."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import orjson

from edged import __version__
from edged.arguments import DEFAULT_CONFIG, config_path, directories
from edged.command import FAILED, OK
from edged.config import Config
from edged.control_client import ANSWER_S, ask, reading_files
from edged.control_wire import Request
from edged.errors import ConfigError, ControlError, EdgedError, StoreError
from edged.lock import is_locked
from edged.models.journals import Journals
from edged.views import (
    deployment_lines,
    model_lines,
    outcome_line,
    progress_line,
    status_lines,
)

Answer = dict[str, object]

# A file is copied and looked at before there is an answer.
_INSTALL_S = 600.0
_VERDICTS = {"bad": True, "good": False, "none": None}


def status(args: argparse.Namespace) -> int:
    """Show how the service is doing: 0 when it is up, 1 when it is not, or a model is stuck.

    Raises:
        ConfigError: of the file; what the service says that runs all the same was shown before.
    """
    try:
        state_dir, runtime_dir = directories(args)
    except ConfigError:
        # It was read when the service started, and may have been broken since.
        if config_path(args) == Path(DEFAULT_CONFIG):
            with suppress(ControlError):
                answer = ask(Path(Config.runtime_dir), Request("status", {}))
                _show(args, answer, status_lines)
        raise
    try:
        answer = ask(runtime_dir, Request("status", {}))
    except ControlError as error:
        if not args.json:
            raise _explained(error, state_dir) from error
        down = {"state": "down", "reason": error.reason, "detail": error.explain()}
        print(orjson.dumps(down).decode())
        return FAILED
    _show(args, answer, status_lines)
    up = answer.get("state") == "running" and answer.get("healthy") is not False
    return OK if up else FAILED


def list_models(args: argparse.Namespace) -> int:
    """Show the versions of every model."""
    answer = _ask(args, Request("models", {}), lambda journals: journals.models())
    _show(args, answer, model_lines)
    return OK


def deployments(args: argparse.Namespace) -> int:
    """Show what is under way and how the others ended."""
    answer = _ask(
        args,
        Request("deployments", {"model": args.model}),
        lambda journals: journals.deployments(args.model),
    )
    _show(args, answer, deployment_lines)
    return OK


def install(args: argparse.Namespace) -> int:
    """Have the service install a file."""
    given: Answer = {"model": args.model, "bare": args.bare}
    try:
        # The file itself, not its name: the service sees no /home, no /tmp and no stick.
        # O_NONBLOCK: a pipe would wait for somebody to write.
        descriptor = os.open(args.file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise StoreError("file_unreadable", f"cannot read {args.file}: {error}.") from error
    try:
        answer = _ask(args, Request("install", given), file=descriptor, answer_s=_INSTALL_S)
    finally:
        os.close(descriptor)
    return _outcome(args, answer)


def roll_back(args: argparse.Namespace) -> int:
    """Have the service return to the version before."""
    return _outcome(args, _ask(args, Request("roll_back", {"model": args.model})))


def mark(args: argparse.Namespace) -> int:
    """Mark a version, or lift its mark."""
    bad = _VERDICTS[args.verdict]
    given: Answer = {"model": args.model, "version": args.release, "bad": bad}
    answer = _ask(
        args,
        Request("mark", given),
        lambda journals: journals.mark(args.model, args.release, bad),
    )
    said = "without a mark" if bad is None else f"marked {args.verdict}"
    _show(args, answer, lambda *_: [f"{args.model} {args.release} is {said}."])
    return OK


def cancel(args: argparse.Namespace) -> int:
    """Have the service give a deployment up."""
    given: Answer = {"model": args.model, "deployment_id": args.deployment_id}
    return _outcome(args, _ask(args, Request("cancel", given)))


def forget_order(args: argparse.Namespace) -> int:
    """Have the service forget the order of a source's latest wish."""
    given: Answer = {"model": args.model, "source": args.source}
    answer = _ask(args, Request("forget_order", given))
    words = f"{args.model}: the next wish of {args.source} counts, whatever its order."
    _show(args, answer, lambda *_: [words])
    return OK


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "status": status,
    "deployments": deployments,
    "list": list_models,
    "install": install,
    "rollback": roll_back,
    "mark": mark,
    "cancel": cancel,
    "forget-order": forget_order,
}
"""By the word on the command line. All return 0, or 1 for a failure."""


def _ask(
    args: argparse.Namespace,
    request: Request,
    offline: Callable[[Journals], Answer] | None = None,
    *,
    file: int | None = None,
    answer_s: float = ANSWER_S,
) -> Answer:
    """Ask the service, or its journals where no service runs and `offline` says how."""
    state_dir, runtime_dir = directories(args)
    try:
        return ask(runtime_dir, request, file=file, progress=_show_progress, answer_s=answer_s)
    except ControlError as error:
        if error.reason == "service_not_running" and offline is not None:
            with reading_files():
                return offline(Journals(state_dir))
        raise _explained(error, state_dir) from error


def _explained(error: ControlError, state_dir: Path) -> EdgedError:
    """Return an error with what the person can do about it here."""
    if error.reason == "operation_unknown":
        return ControlError(
            error.reason,
            f"the service that runs does not offer this: {error}",
            advice=f"If it is older than this command, {__version__}, restart it.",
        )
    if error.reason != "service_not_running":
        return error
    if is_locked(state_dir):
        return ControlError(
            "service_elsewhere",
            f"{error} But another edged holds {state_dir}: it begins, ends, or has another"
            " runtime_dir.",
            advice="Try again, or name its configuration: --config FILE.",
        )
    return ControlError(
        error.reason, str(error), advice="Start it: sudo systemctl start edged, or edged run."
    )


def _outcome(args: argparse.Namespace, answer: Answer) -> int:
    """Show what became of a deployment; refused or failed is a failure of the command as well."""
    _show(args, answer, lambda told, _: [outcome_line(told)])
    deployment = answer.get("deployment")
    ended = deployment.get("status") if isinstance(deployment, dict) else None
    return FAILED if ended in {"REJECTED", "FAILED"} else OK


def _show(
    args: argparse.Namespace, answer: Answer, lines: Callable[[Answer, int], list[str]]
) -> None:
    if args.json:
        print(orjson.dumps(answer).decode())
        return
    # Into a file or another program nothing is cut; a terminal tells how wide it is.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    for line in lines(answer, width):
        print(line)


def _show_progress(step: Answer) -> None:
    if sys.stderr.isatty():
        print(progress_line(step), file=sys.stderr)
