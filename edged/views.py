"""What the service answers, as lines for people: tables that fit the terminal. No input, no output.

Answers come from a process that may be of another version: what is missing is shown as nothing,
and nothing in them reaches the terminal as a control character.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, tzinfo

Answer = dict[str, object]

_GAP = "  "
# A column is not cut below this.
_NARROWEST = 8


def status_lines(answer: Answer, width: int) -> list[str]:
    """Return how the service is doing.

    Args:
        answer: of the operation `status`.
        width: of the terminal, in characters.
    """
    who = f"edged {_text(answer, 'edged')}".strip()
    up = _duration(answer.get("uptime_s"))
    if _text(answer, "state") != "running":
        return [f"{who} is {_text(answer, 'state')}, for {up}: models are being loaded."]
    versions, broker, outbox = (_part(answer, key) for key in ("versions", "broker", "outbox"))
    lines = [f"{who} runs as {_text(answer, 'device_id')} on {_text(answer, 'board')}, for {up}"]
    if answer.get("healthy") is False:
        lines.append("A model is stuck; the watchdog restarts the service.")
    refused = _why(_part(answer, "configuration")).removeprefix(": ")
    if refused:
        lines += _wrapped(f"The configuration on disk is not used: {refused}", width)
    lines += _wrapped(_broker(broker), width)
    lines += _wrapped(_outbox(outbox), width)
    updates = _why(_part(answer, "updates")).removeprefix(": ")
    if updates:
        about = "" if updates.startswith("updates") else "updates: "
        lines += _wrapped(about + updates, width)
    drift = _why(_part(answer, "drift")).removeprefix(": ")
    if drift:
        lines += _wrapped(f"drift: {drift}", width)
    lines += _wrapped(f"runtime {_text(versions, 'runtime')}; {_stopped(answer)}", width)
    cameras, models = _parts(answer, "cameras"), _parts(answer, "models")
    lines += ["", *_camera_lines(cameras, width), "", *_running_lines(models, width)]
    for one in _parts(answer, "deployments"):
        what = f"{_text(one, 'model')} {_text(one, 'version')} is coming: {_state(one)}"
        lines += _wrapped(what + _why(one), width)
    return lines


def model_lines(answer: Answer, width: int, zone: tzinfo | None = None) -> list[str]:
    """Return the versions of every model.

    Args:
        answer: of the operation `models`.
        width: of the terminal, in characters.
        zone: for times; None is the local one.
    """
    lines: list[str] = []
    for model in _parts(answer, "models"):
        lines += ["", _text(model, "model")] if lines else [_text(model, "model")]
        rows = []
        for role in ("active", "previous", "factory"):
            release = _part(model, role)
            since = _moment(release.get("since"), zone)
            digest = _text(release, "sha256")[:8]
            rows.append([role, _text(release, "version") or "none", digest, since])
        current = _part(model, "deployment")
        if current:
            rows.append(["coming", _text(current, "version"), "", _state(current)])
        for wish in _parts(model, "desired"):
            version = _text(wish, "version") or "nothing"
            by = f"by {_text(wish, 'source')} as {_text(wish, 'deployment_id')}"
            percent = wish.get("percent")
            rows.append(["wanted", version, "", by + _few(percent)])
        for mark in _parts(model, "marks"):
            row = [_text(mark, "mark"), _text(mark, "version"), _text(mark, "sha256")[:8]]
            rows.append([*row, _text(mark, "reason")])
        lines += [f"  {line}" for line in columns(rows, width - 2)]
    return lines or ["No model is known on this device."]


def deployment_lines(answer: Answer, width: int, zone: tzinfo | None = None) -> list[str]:
    """Return how deployments ended and what is under way, oldest first.

    Args:
        answer: of the operation `deployments`.
        width: of the terminal, in characters.
        zone: for times; None is the local one.
    """
    rows = [
        [
            _text(one, "deployment_id"),
            _text(one, "model"),
            _text(one, "version"),
            _state(one),
            _moment(_seconds(one.get("began_ms")), zone),
        ]
        for one in _parts(answer, "deployments")
    ]
    if not rows:
        return ["Nothing was deployed on this device."]
    headings = ["DEPLOYMENT", "MODEL", "VERSION", "STATE", "BEGAN"]
    notes = [
        ": ".join(filter(None, (_text(one, "reason"), _text(one, "detail"))))
        for one in _parts(answer, "deployments")
    ]
    return _noted([headings, *rows], notes, width)


def outcome_line(answer: Answer) -> str:
    """Return what became of a deployment that a person asked for."""
    one = _part(answer, "deployment")
    what = f"{_text(one, 'model')} {_text(one, 'version')}".strip()
    words = [_state(one)] + [_text(one, key) for key in ("reason", "detail") if one.get(key)]
    told = f"{_text(one, 'deployment_id')}: {what} {': '.join(words)}"
    model = _text(one, "model")
    return told if one.get("status") else f"{told}; see `edged deployments {model}`"


def progress_line(step: Answer) -> str:
    """Return how far something got."""
    size, total = step.get("bytes"), step.get("total")
    if isinstance(size, int) and isinstance(total, int):
        return f"{_state(step)} {size / 1e6:.1f} of {total / 1e6:.1f} MB"
    return _state(step)


def _broker(broker: Answer) -> str:
    state, since = _text(broker, "state"), _duration(broker.get("for_s"))
    words = f"broker {_text(broker, 'host')}:{_text(broker, 'port')} {state}"
    if state == "connected":
        words += f" with MQTT {_text(broker, 'protocol')}, for {since}"
    else:
        words += f", not connected for {since}"
    return words + _why(broker)


def _outbox(outbox: Answer) -> str:
    queued, dropped = outbox.get("queued"), _part(outbox, "dropped")
    lost = ", ".join(f"{count} {plain(cause)}" for cause, count in dropped.items() if count)
    words = f"outbox: {plain(queued)} waiting" if queued else "outbox: nothing waiting"
    if outbox.get("stored"):
        words += f", {_text(outbox, 'stored')} on disk"
    return words + (f"; lost: {lost}" if lost else "") + _why(outbox)


def _stopped(answer: Answer) -> str:
    why = _text(answer, "last_stop").replace("_", " ")
    return f"before: {why}" if why else "nothing is known of the time before"


def _camera_lines(cameras: Sequence[Answer], width: int) -> list[str]:
    rows = [["CAMERA", "STATE", "MODEL", "FRAMES", "SENT", "PER S", "MS"]]
    notes = []
    for camera in cameras:
        row = [_text(camera, key) for key in ("name", "state", "model", "captured", "published")]
        rows.append([*row, _rate(camera.get("published_per_s")), _p50(camera)])
        notes.append(_why(camera))
    return _noted(rows, notes, width, numbers=4)


def _running_lines(models: Sequence[Answer], width: int) -> list[str]:
    rows = [["MODEL", "VERSION", "KIND", "RUNS ON"]]
    notes = []
    for model in models:
        row = [_text(model, "name"), _text(model, "version") or "-", _text(model, "kind") or "-"]
        where = ", ".join(filter(None, (_text(model, "accelerator"), _text(model, "runtime"))))
        rows.append([*row, where or "-"])
        journal = _why(_part(model, "journal"))
        notes.append(_why(model) + (f"; journal{journal}" if journal else ""))
    return _noted(rows, notes, width)


def _noted(
    rows: list[list[str]], notes: Sequence[str], width: int, *, numbers: int = 0
) -> list[str]:
    """Return a table in which what ails a row stands below it."""
    heading, *body = columns(rows, width, numbers=numbers)
    lines = [heading]
    for line, note in zip(body, notes, strict=True):
        lines.append(line)
        lines += _wrapped("    " + note.lstrip(":; "), width, "    ") if note else []
    return lines


def columns(rows: Sequence[Sequence[str]], width: int, *, numbers: int = 0) -> list[str]:
    """Return rows as lines of at most `width`: the widest columns are cut first.

    Args:
        rows: of equal length, the heading first where there is one.
        width: in characters.
        numbers: so many columns at the end are aligned to the right.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while sum(widths) + len(_GAP) * (len(widths) - 1) > width and max(widths) > _NARROWEST:
        widths[widths.index(max(widths))] -= 1
    first_number = len(widths) - numbers
    lines = []
    for row in rows:
        cells = [
            _cut(cell, wide).rjust(wide) if at >= first_number else _cut(cell, wide).ljust(wide)
            for at, (cell, wide) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(_GAP.join(cells).rstrip())
    return lines


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _wrapped(text: str, width: int, indent: str = "  ") -> list[str]:
    return textwrap.wrap(text, max(width, 20), subsequent_indent=indent, break_on_hyphens=False)


def _why(part: Answer) -> str:
    reason, detail = _text(part, "reason"), _text(part, "detail")
    return f": {detail} ({reason})" if reason else ""


def _state(one: Answer) -> str:
    return _text(one, "state") or _text(one, "status")


def _few(percent: object) -> str:
    return f", {percent} % of the devices" if isinstance(percent, int) and percent < 100 else ""


def _rate(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, int | float) else "-"


def _p50(camera: Answer) -> str:
    value = _part(camera, "invoke_ms").get("p50")
    return f"{value:.2f}" if isinstance(value, int | float) else "-"


def _seconds(ms: object) -> object:
    return ms / 1000 if isinstance(ms, int) else None


def _moment(seconds: object, zone: tzinfo | None) -> str:
    if not isinstance(seconds, int | float):
        return ""
    try:
        return datetime.fromtimestamp(seconds, UTC).astimezone(zone).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return ""


def _duration(seconds: object) -> str:
    """Return e.g. `3 d 4 h`: the two largest units that count."""
    if not isinstance(seconds, int | float):
        return "an unknown time"
    rest, parts = int(seconds), list[str]()
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, rest = divmod(rest, size)
        if count or parts or unit == "s":
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2])


def _part(answer: Answer, key: str) -> Answer:
    value = answer.get(key)
    return value if isinstance(value, dict) else {}


def _parts(answer: Answer, key: str) -> list[Answer]:
    value = answer.get(key)
    found: Iterable[object] = value if isinstance(value, list) else ()
    return [part for part in found if isinstance(part, dict)]


def _text(answer: Answer, key: str) -> str:
    return plain(answer.get(key))


def plain(value: object) -> str:
    """Return a value as text without control characters; "" for None."""
    text = "" if value is None else str(value)
    return "".join(sign if sign.isprintable() else "?" for sign in text)
