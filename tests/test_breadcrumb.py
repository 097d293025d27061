"""What the last run left behind, read by the next."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edged.breadcrumb import Breadcrumb
from edged.errors import StoreError

A, B = "a" * 64, "b" * 64

CHILD = """
import os, signal, sys
from pathlib import Path
from edged.breadcrumb import Breadcrumb
crumb = Breadcrumb(Path(sys.argv[1]))
crumb.loading(sys.argv[2])
crumb.invoking(sys.argv[3])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(
    ("loading", "invoking", "blamed"),
    [("", "", None), ("", B, B), (A, "", A), (A, B, A)],
)
def test_who_is_blamed_for_a_kill(
    tmp_path: Path, loading: str, invoking: str, blamed: str | None
) -> None:
    command = [sys.executable, "-c", CHILD, str(tmp_path), loading, invoking]
    done = subprocess.run(command, env=dict(os.environ), check=False)
    assert done.returncode == -signal.SIGKILL
    assert Breadcrumb(tmp_path).blamed_sha256 == blamed
    assert Breadcrumb(tmp_path).blamed_sha256 is None, "said once"


def test_bytes_of_anything_else_blame_nobody(tmp_path: Path) -> None:
    (tmp_path / "breadcrumb").write_bytes(b"\xff" * 500)
    assert Breadcrumb(tmp_path).blamed_sha256 is None


def test_without_a_directory(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        Breadcrumb(tmp_path / "none")
    assert caught.value.reason == "runtime_dir_unusable"
