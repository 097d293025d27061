"""Options of `edgectl model pack` that go into the manifest as they are. Arguments only."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from edged.errors import VerifyError
from edged.models.manifest import (
    AT_LEAST,
    MOST_FRAMES,
    MOST_MEMORY_BYTES,
    MOST_RATIO,
    MOST_SECONDS,
    MOST_STEPS,
    Requires,
    Tolerance,
    TrialTerms,
)

Number = TypeVar("Number", int, float)

_UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3}


def add_manifest_options(parser: argparse.ArgumentParser) -> None:
    """Add what an operator may say about devices and trials."""
    pixels = "a pixel enters as (pixel - mean) / std; one number, or one for each channel"
    parser.add_argument("--mean", type=_numbers, metavar="M[,M,M]", help=pixels)
    parser.add_argument("--std", type=_numbers, metavar="S[,S,S]")
    parser.add_argument("--license", type=Path, metavar="FILE", help="goes into the package")
    parser.add_argument("--readme", type=Path, metavar="FILE", help="the same")
    golden = parser.add_argument_group("golden set")
    golden.add_argument(
        "--images", type=_between(int, 1, 998), metavar="N", help="most images taken (32)"
    )
    golden.add_argument(
        "--tolerance", type=_tolerance, action="append", default=[], metavar="RUNTIME=STEPS",
        help=f"how many quantised steps outputs may be off, 0 to {MOST_STEPS}, with litert,"
        " tflite or edgetpu; may be repeated (litert=6, tflite=6, edgetpu=8)",
    )  # fmt: skip
    golden.add_argument(
        "--runtime", choices=("auto", "litert", "tflite"), default="auto",
        help="what gives the expected outputs",
    )  # fmt: skip
    devices = parser.add_argument_group("what devices must have")
    devices.add_argument("--accelerator", choices=("any", "cpu", "edgetpu"), default="any")
    devices.add_argument(
        "--memory", type=_memory, default=0, metavar="BYTES",
        help="free memory, such as 30M; with less the package is refused",
    )  # fmt: skip
    devices.add_argument(
        "--require-runtime", type=_runtime, action="append", default=[], metavar="NAME>=VERSION",
        help="least version of litert or tflite; may be repeated",
    )  # fmt: skip
    trial = parser.add_argument_group("trial", "the device's own terms are only made stricter")
    trial.add_argument(
        "--trial-frames", type=_between(int, 0, MOST_FRAMES), default=0, metavar="N",
        help="least number of frames (the device's)",
    )  # fmt: skip
    trial.add_argument(
        "--trial-seconds", type=_between(int, 0, MOST_SECONDS), default=0, metavar="S",
        help="least duration (the device's)",
    )  # fmt: skip
    trial.add_argument(
        "--p95-ratio", type=_between(float, 1.0, MOST_RATIO), default=TrialTerms().p95_ratio,
        metavar="R", help="most that 95 %% of invokes may be slower than the model before (1.5)",
    )  # fmt: skip
    trial.add_argument(
        "--max-disagreement", type=_between(float, 0.0, 1.0), metavar="SHARE",
        help="most distinct scenes in which it may say something else than the model before,"
        " 0 to 1 (0.5 where both have the same labels, else any)",
    )  # fmt: skip


def manifest_choices(args: argparse.Namespace) -> dict[str, Any]:
    """Return fields of `edged.operator.pack.Choices`.

    Raises:
        VerifyError: `manifest_invalid`.
    """
    if (args.mean is None) != (args.std is None):
        raise VerifyError("manifest_invalid", "--mean and --std go together: set both or neither.")
    texts = {"LICENSE": args.license, "README.md": args.readme}
    chosen: dict[str, Any] = {
        "mean": args.mean,
        "std": args.std,
        "runtime": args.runtime,
        "tolerance": Tolerance(**dict(args.tolerance)),
        "requires": Requires(args.accelerator, dict(args.require_runtime), args.memory),
        "trial": TrialTerms(
            args.trial_frames, args.trial_seconds, args.p95_ratio, args.max_disagreement
        ),
        "texts": {name: path for name, path in texts.items() if path is not None},
    }
    return chosen | ({} if args.images is None else {"most_images": args.images})


def _between(kind: type[Number], low: Number, high: Number) -> Callable[[str], Number]:
    def read(text: str) -> Number:
        with suppress(ValueError):
            value = kind(text)
            if low <= value <= high:
                return value
        raise argparse.ArgumentTypeError(f"'{text}' is no number from {low:g} to {high:g}")

    return read


def _numbers(text: str) -> tuple[float, ...]:
    number = _between(float, -1e6, 1e6)
    return tuple(number(part) for part in text.split(","))


def _memory(text: str) -> int:
    match = re.fullmatch(r"([0-9]{1,13})([KMG]?)", text)
    size = int(match[1]) * _UNITS[match[2]] if match else MOST_MEMORY_BYTES + 1
    if size > MOST_MEMORY_BYTES:
        raise argparse.ArgumentTypeError(f"'{text}' is no size such as 30000000 or 30M")
    return size


def _tolerance(text: str) -> tuple[str, int]:
    name, _, steps = text.partition("=")
    if name not in ("litert", "tflite", "edgetpu"):
        raise argparse.ArgumentTypeError(f"'{name}' is none of litert, tflite, edgetpu")
    return name, _between(int, 0, MOST_STEPS)(steps)


def _runtime(text: str) -> tuple[str, str]:
    match = re.fullmatch(r"(litert|tflite)(>=.+)", text)
    if match is None or AT_LEAST.fullmatch(match[2]) is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not such as litert>=1.0 or tflite>=2.9")
    return match[1], match[2]
