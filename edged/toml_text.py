"""TOML text to values and the line of each, or what is wrong with the text, in plain words.

`tomllib` reads, `edged.toml_lines` finds the lines. Both are bounded: see `MAX_LENGTH`. Pure.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from edged.toml_lines import KeyPath, key_lines, walk

# Far beyond any honest file. tomllib takes quadratic time in the parts of a dotted key.
MAX_LENGTH = 256 * 1024
MAX_LINE = 2000

# What tomllib says (the start of it), and what to say instead.
_PLAIN = {
    "Expected '=' after a key": "expected `key = value`",
    "Expected newline or end of document": "more follows after the value; put text in double "
    'quotes ("...") and one key on each line',
    "Expected ']]'": "a line that starts with [[ must end with ]]",
    "Expected ']'": "a line that starts with [ must end with ]",
    "Cannot overwrite a value": "this key or table is there already; write it once",
    "Cannot declare": "this table is there already; write it once",
    "Cannot redefine": "this key or table is there already; write it once",
    "Cannot mutate": "this adds to a list or {...} table that is complete already",
    "Duplicate inline table key": "this key is in the {...} table twice",
    "Invalid initial character for a key": "a key is letters, digits, - and _, or text in quotes",
    "Invalid statement": "expected `key = value`, [table], [[table]] or # comment",
    "Invalid value": 'not a value; put text in double quotes ("..."); it is true, not True',
    "Invalid date or datetime": 'not a date; put text in double quotes ("...")',
    "Unclosed array": "the list that starts here or above has no closing ]",
    "Unclosed inline table": "the table that starts here or above has no closing }, or a comma "
    "is missing",
    "Unterminated string": "the text that starts here or above has no closing quotes",
    "Illegal character '\\n'": "the text has no closing quote on its line",
    "Found invalid character '\\n'": "the text has no closing quote on its line",
    'Expected "\'"': "the text that starts here or above has no closing quote",
    "Expected \"'''\"": "the text that starts here or above has no closing quotes",
    "Unescaped '\\'": "inside \"...\" a backslash is written \\\\; or use '...' around the text",
}
_TWICE = ("Cannot overwrite", "Cannot declare", "Cannot redefine")
_PLACE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class TomlTextError(ValueError):
    """The text is not TOML.

    Attributes:
        line: counted from 1, or None where no one line is at fault.
        message: in plain words; quotes no value.
        reason: `toml_syntax`, `not_utf8` or `too_large`.
    """

    def __init__(self, line: int | None, message: str, reason: str = "toml_syntax") -> None:
        super().__init__(message)
        self.line = line
        self.message = message
        self.reason = reason


def load(text: str) -> tuple[dict[str, Any], dict[KeyPath, int]]:
    """Return the values in a TOML text and the line of each.

    Args:
        text: decoded with `errors="surrogateescape"`, bytes that are not UTF-8 are found too.

    Raises:
        TomlTextError: the text is not TOML, not UTF-8 or too large.
    """
    _check_characters(text)
    try:
        return tomllib.loads(text), key_lines(text)
    except RecursionError:
        raise TomlTextError(None, "lists or tables are nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and int() of thousands of digits
        raise _explained(text, str(error)) from None


def _explained(text: str, said: str) -> TomlTextError:
    place = _PLACE.search(said)
    said = _PLACE.sub("", said)
    plain = next((words for start, words in _PLAIN.items() if said.startswith(start)), None)
    message = plain or f"{said[:1].lower()}{said[1:]}"
    if place is None:
        return TomlTextError(None, message)
    line = int(place[1]) if place[1] else text.rstrip().count("\n") + 1
    if said.startswith(_TWICE):
        return TomlTextError(line, message + _where_first(text, line))
    at = f"column {place[2]}" if place[2] else "at the end of the file"
    return TomlTextError(line, f"{message} ({at})")


def _where_first(text: str, line: int) -> str:
    named = list(walk("\n".join(text.split("\n")[:line])))
    first = next((at for path, at in named if path == named[-1][0]), line)
    return f" (first on line {first})" if first < line else ""


def _check_characters(text: str) -> None:
    if text.startswith("\ufeff"):
        raise TomlTextError(1, "the file starts with a byte order mark; save it as UTF-8 without")
    if len(text) > MAX_LENGTH:
        raise TomlTextError(None, f"the file is longer than {MAX_LENGTH} characters", "too_large")
    for number, line in enumerate(text.split("\n"), 1):
        if "\0" in line:
            raise TomlTextError(
                number, "there is a zero byte; is the file UTF-8 text, not UTF-16?", "not_utf8"
            )
        if any("\ud800" <= character <= "\udfff" for character in line):
            raise TomlTextError(number, "there are bytes that are not UTF-8 text", "not_utf8")
        if len(line) > MAX_LINE:
            raise TomlTextError(number, f"longer than {MAX_LINE} characters", "too_large")
