"""How a program of ours runs a command: arguments in, a number and words for people out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from edged.errors import ConfigError, EdgedError
from edged.systemd import error_lines

OK, FAILED, USAGE, CONFIGURATION = 0, 1, 2, 78


def new_file(text: str) -> Path:
    """Return an argument that names a file to be written; for argparse."""
    path = Path(text)
    if path.is_dir() or not path.name:
        raise argparse.ArgumentTypeError(f"must name a file, and {text!r} is a directory")
    return path


class UsageError(EdgedError):
    """The arguments are wrong."""

    def __init__(self, message: str) -> None:
        super().__init__("usage", message)


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        parser: whose result has a function `command`.
        arguments: without the program's name; those of the process by default.

    Returns:
        0 ok, 1 failed, 2 usage, 78 configuration.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if not given:
        parser.print_help(sys.stderr)
        return USAGE
    try:
        args = parser.parse_args(given)
    except SystemExit as end:  # argparse ends the process; callers of main want a number
        return int(end.code or 0)
    return _outcome(parser.prog, args.command, args)


def _outcome(
    program: str, command: Callable[[argparse.Namespace], int], args: argparse.Namespace
) -> int:
    try:
        return command(args)
    except UsageError as error:
        code = USAGE
        print(error_lines(f"{program}: {error.explain()}"), file=sys.stderr)
    except ConfigError as error:
        code = CONFIGURATION
        print(error_lines(f"{program}: {error.explain()}"), file=sys.stderr)
    except EdgedError as error:
        code = FAILED
        print(error_lines(f"{program}: {error.explain()} ({error.reason})"), file=sys.stderr)
    except BrokenPipeError:
        # The reader of our output went away, as `head` does; nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    except KeyboardInterrupt:
        code = FAILED
    return code
