"""Compiles the delegate that stands in for libedgetpu; what it can do stands in delegate.c."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

SOURCE = Path(__file__).with_name("delegate.c")
LIBRARY = "libedged_test_delegate.so"
MODE_VARIABLE = "EDGED_TEST_DELEGATE"
LOG_VARIABLE = "EDGED_TEST_DELEGATE_LOG"

_FLAGS = ("-std=c11", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror")


class CompilerMissingError(RuntimeError):
    """There is no C compiler on this machine."""


def compile_delegate(directory: Path) -> Path:
    """Compile the delegate into a directory and return the library's path.

    Raises:
        CompilerMissingError, RuntimeError: as `compile_library`.
    """
    return compile_library(SOURCE, directory / LIBRARY)


def compile_library(source: Path, library: Path) -> Path:
    """Compile a shared library and return its path.

    Raises:
        CompilerMissingError: neither cc, gcc nor clang is installed.
        RuntimeError: the compiler refused, with its words.
    """
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        raise CompilerMissingError(
            f"{source.name} needs a C compiler: none of cc, gcc, clang is installed"
        )
    command = [compiler, *_FLAGS, str(source), "-o", str(library), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{compiler} cannot compile {source.name}:\n{done.stderr}")
    return library


def delegate_or_skip(directory: Path) -> Path:
    """Compile the delegate; skip the test, saying why, where there is no compiler."""
    try:
        return compile_delegate(directory)
    except CompilerMissingError as error:
        pytest.skip(str(error))


def answers(inputs: np.ndarray, classes: int = 4) -> np.ndarray:
    """Return what delegate.c computes of inputs of uint8, first axis sample."""
    sums = inputs.reshape(len(inputs), -1).sum(axis=1, dtype=np.int64)
    return ((sums[:, None] + np.arange(classes)) & 0xFF).astype(np.uint8)[:, None, :]
