"""Tries a candidate in a child process and judges it: the state VALIDATING.

Well-formed models can crash or hang the process that runs them, and some report success first, so
the child's end counts as much as its report. What ends the child here never reaches the service.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import edged
from edged.config import ModelConfig
from edged.errors import DeviceError
from edged.models.child import Bounds, Course, how_it_ended, watch

PROBE = (sys.executable, "-s", "-P", "-B", "-m", "edged.models.probe")
_START_S = 60.0
# A niced child on a busy board is slower than the service: only far beyond its limit is a hang.
_HANG_FACTOR = 4.0
_RUNNING = ("sample", "control", "timing")
_REASON = re.compile(r"[a-z0-9_]{1,64}")
_NONSENSE = "its report makes no sense"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a candidate may take while it is tried.

    Attributes:
        memory_bytes: resident, beyond what the child has before it loads the model.
        invoke_s: for one invoke, as the service allows it (`invoke_limit_s`).
        load_s: for loading.
        wall_s: for everything.
        cpu_s: seconds of CPU for everything.
    """

    memory_bytes: int
    invoke_s: float = 10.0
    load_s: float = 120.0
    wall_s: float = 600.0
    cpu_s: int = 1200


@dataclass(frozen=True, slots=True)
class Measured:
    """What the child measured.

    Attributes:
        runtime: name and version.
        golden: agreement in words.
        load_s: loading and the first invoke, seconds.
        p50_ms: median of the invoke.
        p95_ms: its 95th percentile.
        memory_bytes: most that the model took while it was loaded and ran.
    """

    runtime: str
    golden: str
    load_s: float
    p50_ms: float
    p95_ms: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Validation:
    """What came of trying a candidate.

    Attributes:
        reason: stable slug of why it is refused, or None where it is not.
        detail: words for a person.
        marks: whether the refusal marks it bad: it crashed, hung or failed its golden set, which
            it will do again.
        structure_only: whether it was looked at without being loaded.
        measured: what was measured, where it came so far.
        enforced: what the child was denied (`sandbox.fence_in`), or () where it did not begin.
    """

    reason: str | None
    detail: str
    marks: bool
    structure_only: bool
    measured: Measured | None
    enforced: tuple[str, ...]


# Failures of the golden set, and of the images that every candidate is shown beside it.
_MARKING = {"golden_mismatch", "output_constant", "output_not_finite"}


def validate(
    config: ModelConfig,
    directory: Path,
    limits: Limits,
    *,
    edgetpu: bool = False,
    cancelled: Callable[[], bool] = lambda: False,
    program: Sequence[str] = PROBE,
) -> Validation:
    """Try an unpacked package.

    Args:
        config: the owner's.
        directory: of the package, absolute.
        limits: what it may take.
        edgetpu: whether it is to run on an Edge TPU, which belongs to the service: a second
            process would take it away. Then only its structure is checked, in a child too.
        cancelled: asked all the time; true gives up.
        program: what is started.

    Raises:
        DeviceError: `validation_unavailable` when the child did not come to look at the package,
            `validation_canceled`; or the child's own, such as `runtime_missing`.
    """
    job = {
        "directory": str(directory.absolute()),
        "config": asdict(config) | {"accelerator": "cpu"},
        "structure_only": edgetpu,
        "memory_bytes": limits.memory_bytes,
        "data_bytes": max(limits.memory_bytes, _all_memory_bytes()),
        "cpu_s": limits.cpu_s,
        "parent": os.getpid(),
    }
    hang_s = _HANG_FACTOR * limits.invoke_s
    bounds = Bounds(
        wall_s=limits.wall_s,
        stage_s={"loading": limits.load_s} | dict.fromkeys(_RUNNING, hang_s),
        other_stage_s=_START_S,
        memory_bytes=limits.memory_bytes,
    )
    course = watch([*program, json.dumps(job)], _environment(), bounds, cancelled)
    return _Judge(course, limits, structure_only=edgetpu).judge()


def _all_memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _environment() -> dict[str, str]:
    """Return the child's environment: nothing of ours but where libraries are."""
    made = {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(Path(edged.__file__).parents[1]),
        # Threads of numpy would be of no use and belong to no fence.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }
    if "LD_LIBRARY_PATH" in os.environ:
        made["LD_LIBRARY_PATH"] = os.environ["LD_LIBRARY_PATH"]
    return made


class _Judge:
    """Reads a course from its end: how the child ended, then what it reported."""

    def __init__(self, course: Course, limits: Limits, *, structure_only: bool) -> None:
        self._course, self._limits = course, limits
        self._structure_only = structure_only

    def judge(self) -> Validation:
        course, lines = self._course, self._course.lines
        end = how_it_ended(course.status)
        early = course.stage == "started" and course.cut is None and course.status != 0
        if "started" not in lines or (early and -course.status != signal.SIGKILL):
            raise DeviceError(
                "validation_unavailable",
                f"the process that tries a model did not begin: {end}. {course.words}",
            )
        if course.cut is not None:
            return self._cut()
        if course.status < 0:
            return self._killed()
        refused = lines.get("refused")
        if refused is not None and course.status != 0:
            return self._refused(refused)
        if course.status != 0 or course.stage != "done":
            detail = f"it ended badly: {end}{self._place()}"
            return self._no("validation_crashed", detail, marks=True)
        return self._done(lines["done"])

    def _cut(self) -> Validation:
        course, limits = self._course, self._limits
        if course.cut == "memory":
            words = f"it took more than {limits.memory_bytes // 2**20} MiB{self._place()}"
            return self._no("validation_memory", words)
        if course.cut == "stage" and course.stage in ("loading", *_RUNNING):
            words = f"it did not come back{self._place()}"
            return self._no("validation_hung", words, marks=True)
        if course.cut == "report":
            words = "what runs in its place writes without end"
            return self._no("validation_crashed", words, marks=True)
        if course.cut == "stage" and course.stage == "freeing":
            return self._no("validation_hung", "it did not come back when freed", marks=True)
        words = f"it was not through after {limits.wall_s:g} s{self._place()}"
        return self._no("validation_slow", words)

    def _killed(self) -> Validation:
        number = -self._course.status
        if number == signal.SIGXCPU:
            words = f"it used more than {self._limits.cpu_s} s of CPU{self._place()}"
            return self._no("validation_slow", words)
        if number == signal.SIGKILL:  # not ours: the kernel was out of memory
            words = f"the system had no memory left for it{self._place()}"
            return self._no("validation_memory", words)
        return self._no(
            "validation_crashed", f"{how_it_ended(self._course.status)}{self._place()}", marks=True
        )

    def _refused(self, said: Mapping[str, object]) -> Validation:
        reason, detail = str(said.get("reason")), str(said.get("detail"))
        if _REASON.fullmatch(reason) is None:
            return self._no("validation_crashed", _NONSENSE, marks=True)
        if said.get("device") is True:
            raise DeviceError(reason, detail)
        return self._no(reason, detail, marks=reason in _MARKING)

    def _done(self, said: Mapping[str, object]) -> Validation:
        measured = None if self._structure_only else _measured(said)
        if measured is None and not self._structure_only:
            return self._no("validation_crashed", _NONSENSE, marks=True)
        if measured is not None and measured.p95_ms > 1000 * self._limits.invoke_s:
            words = f"an invoke takes {measured.p95_ms:.0f} ms, longer than the service waits"
            return self._no("validation_slow", words, measured=measured)
        return self._answer(None, "", measured=measured)

    def _no(
        self, reason: str, detail: str, *, marks: bool = False, measured: Measured | None = None
    ) -> Validation:
        return self._answer(reason, detail, marks=marks, measured=measured)

    def _answer(
        self,
        reason: str | None,
        detail: str,
        *,
        marks: bool = False,
        measured: Measured | None = None,
    ) -> Validation:
        enforced = self._course.lines["started"].get("enforced")
        names = tuple(str(name) for name in enforced) if isinstance(enforced, list) else ()
        return Validation(reason, detail, marks, self._structure_only, measured, names)

    def _place(self) -> str:
        line = self._course.lines.get(self._course.stage, {})
        words = {
            "loading": " while it was loaded",
            "sample": f" at golden sample {line.get('number')}",
            "control": " at a blank image" if line.get("number") == 0 else " at noise",
            "timing": f" at frame {line.get('number')}",
            "freeing": " when it was freed",
            "done": " after it had reported success",
            "refused": " after it was refused",
        }
        return words.get(self._course.stage, " before it was loaded")


def _measured(said: Mapping[str, object]) -> Measured | None:
    try:
        return Measured(
            str(said["runtime"]),
            str(said["golden"]),
            float(str(said["load_s"])),
            float(str(said["p50_ms"])),
            float(str(said["p95_ms"])),
            int(str(said["memory_bytes"])),
        )
    except (KeyError, ValueError):
        return None
