"""The lines of the control socket: a request, and what answers it. Pure.

One request per connection: a JSON object on one line, `{"operation": "mark", "arguments": {...}}`.
What takes long is answered by any number of lines `{"progress": {...}}`; the last line is
`{"ok": true, "result": {...}}` or `{"ok": false, "reason": "...", "detail": "..."}`. Unknown fields
are ignored.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import orjson

from edged.errors import ControlError, EdgedError
from edged.models.strictjson import StrictJsonError, parse_object

REQUEST_BYTES = 64 * 1024
# The history of many models is long; a client that reads more is being fooled.
ANSWER_BYTES = 8 * 1024 * 1024
_OPERATION = re.compile(r"[a-z][a-z0-9_]{0,63}")


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asks for."""

    operation: str
    arguments: dict[str, object]


@dataclass(frozen=True, slots=True)
class Progress:
    """A line before the last: how far the operation got."""

    progress: dict[str, object]


@dataclass(frozen=True, slots=True)
class Answer:
    """The last line when all went well."""

    result: dict[str, object]


def encode_request(request: Request) -> bytes:
    """Return the line of a request.

    Raises:
        ControlError: `request_malformed`: an argument is no text that JSON can carry;
            `request_too_large`.
    """
    try:
        line = _line({"operation": request.operation, "arguments": request.arguments})
    except TypeError as error:
        raise ControlError("request_malformed", f"no text for JSON: {error}.") from error
    if len(line) > REQUEST_BYTES:
        raise _too_large(len(line))
    return line


def parse_request(line: bytes) -> Request:
    """Return the request on a line, with or without its end.

    Raises:
        ControlError: `request_malformed`, `request_too_large`.
    """
    if len(line) > REQUEST_BYTES:
        raise _too_large(len(line))
    try:
        message = parse_object(line, REQUEST_BYTES)
    except StrictJsonError as error:
        raise ControlError("request_malformed", f"the request is no JSON: {error}.") from error
    operation, arguments = message.get("operation"), message.get("arguments", {})
    if not isinstance(operation, str) or not _OPERATION.fullmatch(operation):
        raise ControlError("request_malformed", "the request names no operation.")
    if not isinstance(arguments, dict):
        raise ControlError("request_malformed", "the request's arguments are no object.")
    return Request(operation, arguments)


def encode_progress(progress: dict[str, object]) -> bytes:
    """Return a line before the last."""
    return _line({"progress": progress})


def encode_answer(result: dict[str, object]) -> bytes:
    """Return the last line when all went well."""
    return _line({"ok": True, "result": result})


def encode_refusal(error: EdgedError) -> bytes:
    """Return the last line when it did not."""
    detail = error.explain().encode("utf-8", "backslashreplace").decode()
    return _line({"ok": False, "reason": error.reason, "detail": detail})


def parse_answer(line: bytes) -> Progress | Answer:
    """Return what a line of an answer says.

    Raises:
        ControlError: with the reason and detail that the daemon gave, or `answer_malformed`.
    """
    try:
        message = parse_object(line, ANSWER_BYTES)
    except StrictJsonError as error:
        raise _strange(str(error)) from error
    progress, result = message.get("progress"), message.get("result")
    if isinstance(progress, dict):
        return Progress(progress)
    if message.get("ok") is True and isinstance(result, dict):
        return Answer(result)
    reason, detail = message.get("reason"), message.get("detail")
    if message.get("ok") is False and isinstance(reason, str) and isinstance(detail, str):
        raise ControlError(reason, detail)
    raise _strange("neither progress nor result nor reason")


def _line(message: dict[str, object]) -> bytes:
    return orjson.dumps(message) + b"\n"


def _too_large(size_bytes: int) -> ControlError:
    return ControlError(
        "request_too_large", f"{size_bytes} bytes, more than {REQUEST_BYTES} for a request."
    )


def _strange(what: str) -> ControlError:
    return ControlError("answer_malformed", f"what answers is no edged that I know: {what}.")
