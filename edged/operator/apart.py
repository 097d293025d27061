"""Does something in a process of its own, because a model can end the process that runs it."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import edged
from edged.errors import EdgedError, ValidationError
from edged.models.child import how_it_ended

T = TypeVar("T")

_CODE = "import sys; from edged.operator.apart import answer; answer(int(sys.argv[1]))"


def apart(call: Callable[[], T]) -> T:
    """Return what a function of a module, or a partial one, returns in a child.

    Args:
        call: it, its arguments and what it returns can be pickled.

    Raises:
        EdgedError: from `call`.
        ValidationError: `validation_crashed`, the child ended without an answer.
    """
    ours, theirs = os.pipe()
    with open(ours, "rb") as reader:  # noqa: PTH123 - a descriptor
        try:
            child = subprocess.Popen(
                [sys.executable, "-P", "-c", _CODE, str(theirs)],
                env=os.environ | {"PYTHONPATH": str(Path(edged.__file__).parents[1])},
                stdin=subprocess.PIPE,
                pass_fds=(theirs,),
            )
        finally:
            os.close(theirs)
        with child:
            if child.stdin is None:
                raise AssertionError("a pipe was asked for")
            with suppress(BrokenPipeError), child.stdin as begin:
                begin.write(pickle.dumps(call))
            said = reader.read()
    if not said:
        words = f"the model ended the process that ran it: {how_it_ended(child.returncode)}."
        raise ValidationError("validation_crashed", words)
    result, error = pickle.loads(said)  # noqa: S301 - of our own child
    if error is not None:
        kind, reason, message, advice = error
        raise kind(reason, message, advice=advice)
    return result  # type: ignore[no-any-return]  # of `call`


def answer(descriptor: int) -> None:
    """Be the child: do what stdin says, and write what came of it.

    Args:
        descriptor: where to.
    """
    call: Callable[[], object] = pickle.load(sys.stdin.buffer)  # noqa: S301 - of our own parent
    try:
        said: tuple[object, object] = (call(), None)
    except EdgedError as error:
        # Not the error itself: exceptions are made anew from their message alone.
        said = (None, (type(error), error.reason, str(error), error.advice))
    except KeyboardInterrupt:
        return  # the parent has had it as well, and says so
    with os.fdopen(descriptor, "wb") as end:
        end.write(pickle.dumps(said))
