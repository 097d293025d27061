"""The daemon as a process of its own beside a bare one: start-up CPU and memory.

The bare process imports numpy and the runtime, builds the model, invokes it, and nothing else.
Pairs alternate, so that a noisy machine disturbs both alike.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmark.assembled import folder_of
from benchmark.figures import Figure, spread
from benchmark.world import Data, Subscriber, memory_mb, process_cpu_s, wait_for
from edged.inference.factory import factory_path

FRAMES = 200
FPS = 50
PAIRS = 7

# Prints its CPU seconds after the first invoke, then waits for its standard input to end.
_BARE = """
import sys, time
import numpy as np
from ai_edge_litert.interpreter import Interpreter
model = Interpreter(model_path=sys.argv[1], num_threads=1)
model.allocate_tensors()
spec = model.get_input_details()[0]
model.set_tensor(spec["index"], np.zeros(spec["shape"], spec["dtype"]))
model.invoke()
print(time.process_time(), flush=True)
for _ in range(int(sys.argv[2]) - 1):
    model.invoke()
print("done", flush=True)
sys.stdin.read()
"""


class Processes:
    """Pairs of processes; what both figures need is measured once."""

    def __init__(self, data: Data, port: int, folder: Path, pairs: int) -> None:
        self._model, self._port, self._folder, self._pairs = data.v2, port, folder, pairs
        self._name = data.v2_name
        self._images = folder_of(data.image, folder / "images")
        self._rows: list[tuple[dict[str, float], ...]] = []

    def start(self) -> list[Figure]:
        """CPU from the start to the first prediction at a subscriber, over the bare process's."""
        daemon, plain, quiet = zip(*self._measured(), strict=True)
        cpu = [tuple(one["cpu_s"] for one in rows) for rows in (daemon, plain, quiet)]
        seconds = [spread([1000 * s for s in one], 0) for one in cpu]
        return [
            Figure(
                f"CPU to the first prediction over bare, {self._name}",
                tuple(one / bare for one, bare in zip(cpu[0], cpu[1], strict=True)),
                must=2.0,
                aim=1.5,
                beside=f"edged {seconds[0]} ms, bare {seconds[1]} ms",
                details={"daemon": daemon, "bare": plain, "bare, BLAS with 1 thread": quiet},
            ),
            Figure(
                "the same, bare with OPENBLAS_NUM_THREADS=1",
                tuple(one / bare for one, bare in zip(cpu[0], cpu[2], strict=True)),
                beside=f"bare {seconds[2]} ms",
            ),
        ]

    def memory(self) -> list[Figure]:
        """Resident memory after 200 frames less the bare process's after as many invokes."""
        daemon, plain, _ = zip(*self._measured(), strict=True)
        figures = []
        for key, name, must, aim in (
            ("rss", "memory above bare (RSS)", 35, 25),
            ("anonymous", "of it anonymous: not to be had again from a file", None, None),
        ):
            above = tuple(one[key] - bare[key] for one, bare in zip(daemon, plain, strict=True))
            said = [spread([one[key] for one in rows], 1) for rows in (daemon, plain)]
            beside = f"edged {said[0]} MB, bare {said[1]} MB"
            figures.append(Figure(name, above, "MB", must, aim, digits=1, beside=beside))
        return figures

    def _measured(self) -> list[tuple[dict[str, float], ...]]:
        if not self._rows:
            # All files into the page cache, all modules to bytecode, as an installation has them.
            self._daemon()
            self._bare({})
            for _ in range(self._pairs):
                row = (self._daemon(), self._bare({}), self._bare({"OPENBLAS_NUM_THREADS": "1"}))
                self._rows.append(row)
        return self._rows

    def _daemon(self) -> dict[str, float]:
        reader = Subscriber(self._port, "child")
        arguments = ["--model", self._model, "--camera", f"images:{self._images}"]
        arguments += ["--fps", str(FPS), "--accelerator", "cpu", "--device-id", "child"]
        arguments += ["--broker", f"127.0.0.1:{self._port}"]
        child = start_daemon(self._folder, arguments)
        try:
            wait_for("the first prediction", lambda: reader.first.wait(0.1))
            cpu_s = process_cpu_s(child.pid)
            wait_for(f"{FRAMES} predictions", lambda: reader.received >= FRAMES, 60.0)
            return {"cpu_s": cpu_s, **memory_mb(child.pid)}
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(10.0)
            reader.close()

    def _bare(self, environment: Mapping[str, str]) -> dict[str, float]:
        child = subprocess.Popen(
            [sys.executable, "-c", _BARE, str(factory_path(self._model)), str(FRAMES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**_environment(self._folder), **environment},
            text=True,
        )
        assert child.stdin is not None
        assert child.stdout is not None
        cpu_s = float(child.stdout.readline())
        child.stdout.readline()
        found = {"cpu_s": cpu_s, **memory_mb(child.pid)}
        child.communicate()
        return found


def start_daemon(folder: Path, arguments: list[str]) -> subprocess.Popen[bytes]:
    """Start `edged run` as a user would, with its state and `daemon.log` in `folder`."""
    homes = {"XDG_STATE_HOME": str(folder), "XDG_RUNTIME_DIR": str(folder)}
    with (folder / "daemon.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "edged", "run", *arguments],
            stdout=log,
            stderr=log,
            env={**_environment(folder), **homes},
        )


def _environment(folder: Path) -> dict[str, str]:
    """This process's environment: with bytecode, and without what edged sets for itself."""
    others = {"OPENBLAS_NUM_THREADS", "PYTHONDONTWRITEBYTECODE"}
    kept = {key: value for key, value in os.environ.items() if key not in others}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}
