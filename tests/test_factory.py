"""The file that a model starts with, as it is read."""

import subprocess
import sys
from pathlib import Path

import pytest
from sim import models

from edged.errors import ValidationError
from edged.inference import factory
from edged.inference.factory import read_model

_IN_LITTLE_MEMORY = """
import re, resource, sys
from pathlib import Path
from edged.inference.factory import read_model
taken = int(re.search(r"VmSize:\\s+([0-9]+)", Path("/proc/self/status").read_text())[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (taken + (64 << 20),) * 2)
print(len(read_model(Path(sys.argv[1]))))
"""


def test_a_small_model_is_read_where_there_is_little_memory(tmp_path: Path) -> None:
    path = models.write(tmp_path / "model.tflite", models.classifier())

    command = [sys.executable, "-c", _IN_LITTLE_MEMORY, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == (f"{path.stat().st_size}\n", "")


def test_a_model_may_be_as_large_as_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.tflite"
    monkeypatch.setattr(factory, "MODEL_LIMIT_BYTES", 100)

    path.write_bytes(bytes(100))
    assert read_model(path) == bytes(100)

    path.write_bytes(bytes(101))
    with pytest.raises(ValidationError) as caught:
        read_model(path)
    assert caught.value.reason == "model_too_large"
