"""Where each microsecond of a frame goes: clocks around the steps of the running daemon.

The product is not changed: its functions are wrapped while a slice runs. Slices with and without
the clocks take turns, so that the threads' own totals are those of the undisturbed daemon. What
the clocks themselves cost is measured on an empty function and taken off.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from unittest import mock

import cv2

from benchmark.assembled import Assembled, configuration, load
from benchmark.frames import Options
from benchmark.world import Data
from edged import assembly as composition
from edged.camera.imagefile import decode
from edged.inference.interpreter import Interpreter
from edged.inference.preprocess import Preprocessor
from edged.inference.servable import Servable
from edged.mqtt.client import Session
from edged.mqtt.connection import Connection
from edged.pipeline.inference import InferenceWorker
from edged.pipeline.mailbox import Mailbox
from edged.pipeline.policy import PublishPolicy
from edged.pipeline.results import Results


@dataclass(frozen=True)
class Step:
    """One function on a frame's way.

    Attributes:
        thread: the one it runs on.
        name: what it does.
        owner: the class or module that holds it.
        function: its name there.
        inside: the name of the step that calls it, whose own time is without it.
        waits: it waits for something, so its wall time says nothing.
    """

    thread: str
    name: str
    owner: Any
    function: str
    inside: str = ""
    waits: bool = False


STEPS = (
    Step("capture", "resize and colour", Preprocessor, "view", inside="write slot"),
    Step("capture", "write slot", Preprocessor, "write"),
    Step("capture", "take a free slot", Mailbox, "writable"),
    Step("capture", "hand over", Mailbox, "put"),
    Step("capture", "wait for its turn", Mailbox, "wait_taken", waits=True),
    Step("inference", "wait for a frame", InferenceWorker, "_wait", waits=True),
    Step("inference", "set_input", Interpreter, "set_input"),
    Step("inference", "invoke", Interpreter, "invoke"),
    Step("inference", "read_outputs", Interpreter, "read_outputs"),
    Step("inference", "hand on", Results, "put"),
    Step("publisher", "decode", Servable, "decode"),
    Step("publisher", "policy", PublishPolicy, "wants"),
    Step("publisher", "encode", composition, "encode_prediction"),
    Step("publisher", "session.publish", Session, "publish"),
    Step("publisher", "paho's publish", Connection, "send", inside="session.publish"),
)
# The threads of one camera, by the beginning of their names, and what they do.
THREADS = {
    "capture": "capture thread, all of it",
    "inference": "inference thread, all of it",
    "publisher": "publisher thread, all of it",
    "mqtt-io": "paho's thread",
    "mqtt": "session thread",
    "outbox": "outbox thread",
}


@dataclass
class Clock:
    """Sums what a function takes."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    calls: int = 0
    thread_names: set[str] = field(default_factory=set)

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            wall_s, cpu_s = time.perf_counter(), time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.cpu_s += time.thread_time() - cpu_s
                self.wall_s += time.perf_counter() - wall_s
                self.calls += 1

        return timed


def profile(data: Data, port: int, options: Options) -> str:
    """Return the table for the larger model, one free-running camera."""
    config = configuration(data.v2, port)
    edged = Assembled(config, data.image, load(config))
    edged.slice(0.3)
    empty_wall_us, empty_cpu_us = _empty()
    steps: dict[str, list[tuple[float, float]]] = {step.name: [] for step in STEPS}
    threads: dict[str, list[float]] = {name: [] for name in THREADS}
    for _ in range(options.slices):
        before, frames = _thread_cpu_s(), len(edged.invokes.rows)
        edged.slice(options.seconds)
        after, frames = _thread_cpu_s(), len(edged.invokes.rows) - frames
        for name, values in threads.items():
            values.append(1e6 * (after[name] - before.get(name, 0.0)) / frames)
        with _clocks() as clocks:
            edged.slice(options.seconds)
        frames = max(clocks["invoke"].calls, 1)
        for step in STEPS:
            clock = clocks[step.name]
            inner = [clocks[other.name] for other in STEPS if other.inside == step.name]
            calls = clock.calls + sum(one.calls for one in inner)
            wall_s = clock.wall_s - sum(one.wall_s for one in inner)
            cpu_s = clock.cpu_s - sum(one.cpu_s for one in inner)
            wall_us = (1e6 * wall_s - calls * empty_wall_us) / frames
            cpu_us = (1e6 * cpu_s - calls * empty_cpu_us) / frames
            steps[step.name].append((wall_us, cpu_us))
    edged.stop()
    return _table(data, steps, threads)


@contextlib.contextmanager
def _clocks() -> Iterator[dict[str, Clock]]:
    """Wrap every step; the clocks by the steps' names."""
    clocks = {step.name: Clock() for step in STEPS}
    with contextlib.ExitStack() as stack:
        for step in STEPS:
            wrapped = clocks[step.name].around(getattr(step.owner, step.function))
            stack.enter_context(mock.patch.object(step.owner, step.function, wrapped))
        yield clocks


def _empty() -> tuple[float, float]:
    """What a clock sees of itself: microseconds of wall and CPU for a function that is empty."""
    clock = Clock()
    nothing = clock.around(lambda: None)
    for _ in range(20_000):
        nothing()
    return 1e6 * clock.wall_s / clock.calls, 1e6 * clock.cpu_s / clock.calls


def _thread_cpu_s() -> dict[str, float]:
    """CPU seconds of the daemon's threads, by the name in THREADS."""
    found = dict.fromkeys(THREADS, 0.0)
    for thread in threading.enumerate():
        name = next((name for name in THREADS if thread.name.startswith(name)), None)
        if name is not None and thread.ident is not None:
            found[name] += time.clock_gettime(time.pthread_getcpuclockid(thread.ident))
    return found


def _table(
    data: Data, steps: dict[str, list[tuple[float, float]]], threads: dict[str, list[float]]
) -> str:
    invoke_us = median(cpu_us for _, cpu_us in steps["invoke"])
    rows = [
        f"One frame of {data.v2_name}, 640 x 480, one free-running camera; medians of the slices.",
        "",
        "| thread | step | wall us | CPU us | CPU, % of invoke |",
        "|---|---|---|---|---|",
    ]
    for step in STEPS:
        wall_us, cpu_us = (median(column) for column in zip(*steps[step.name], strict=True))
        wall = "" if step.waits else f"{wall_us:.1f}"
        name = f"{step.name} (in {step.inside})" if step.inside else step.name
        rows.append(_row(step.thread, name, wall, cpu_us, invoke_us))
    for thread, name in THREADS.items():
        rows.append(_row(thread, f"**{name}**", "", median(threads[thread]), invoke_us))
    total_us = sum(median(values) for values in threads.values())
    rows.append(_row("", "**all of them**", "", total_us, invoke_us))
    rows.append("")
    rows.append(f"A camera that sends JPEG costs {_jpeg_us(data):.0f} us more for each frame.")
    return "\n".join(rows)


def _row(thread: str, name: str, wall: str, cpu_us: float, invoke_us: float) -> str:
    return f"| {thread} | {name} | {wall} | {cpu_us:.1f} | {100 * cpu_us / invoke_us:.2f} |"


def _jpeg_us(data: Data) -> float:
    encoded = cv2.imencode(".jpg", data.image)[1].tobytes()
    taken = []
    for _ in range(50):
        begun_s = time.thread_time()
        decode(encoded)
        taken.append(1e6 * (time.thread_time() - begun_s))
    return median(taken)
