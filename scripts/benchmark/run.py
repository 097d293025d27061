"""Arguments, order and presentation of the benchmark."""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import cv2

from benchmark.away import broker_away
from benchmark.figures import Figure, table
from benchmark.frames import FramePath, Options
from benchmark.process import PAIRS, Processes
from benchmark.profile import profile
from benchmark.swaps import swaps
from benchmark.world import Broker, Data, load_average
from edged.board import board_name
from edged.inference.interpreter import installed_runtimes

NAMES = (
    "duty",
    "cpu",
    "latency",
    "cameras",
    "message",
    "memory",
    "start",
    "away",
    "swaps",
    "profile",
)


def main(description: str) -> int:
    """Run what the arguments ask for; 1 when a figure misses its bound."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join(NAMES)}")
    parser.add_argument("--slices", type=int, help="of each way to spend time (5)")
    parser.add_argument("--seconds", type=float, help="length of a slice (2)")
    parser.add_argument("--quick", action="store_true", help="few short slices: does it run?")
    parser.add_argument("--profile", action="store_true", help="the same as --only profile")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument(
        "--data", type=Path, default=Path("../shared/data"), help="holds models/ and images/"
    )
    args = parser.parse_args()
    names = NAMES if args.only is None else tuple(args.only.split(","))
    if args.profile:
        names = ("profile",)
    if not set(names) <= set(NAMES):
        parser.error(f"--only takes some of {','.join(NAMES)}")
    cv2.setNumThreads(1)
    options = Options(
        args.slices or (1 if args.quick else 5), args.seconds or (0.3 if args.quick else 2.0)
    )
    before = load_average()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = Broker(folder / "broker").start()
        try:
            figures, profiled = _measure(
                names, Data(args.data), broker.port, folder, options, quick=args.quick
            )
        finally:
            broker.stop()
    runtimes = ", ".join(f"{runtime.name} {runtime.version}" for runtime in installed_runtimes())
    print(
        f"{board_name()}, Python {platform.python_version()}, {runtimes}; {options.slices} slices"
        f" of {options.seconds:g} s; load average {before:.2f} before, {load_average():.2f} after\n"
    )
    if figures:
        print(table(figures))
    if profiled:
        print(f"\n{profiled}" if figures else profiled)
    if args.json:
        about = {"load_before": before, "load_after": load_average(), "profile": profiled}
        found = {**about, "figures": [figure.to_dict() for figure in figures]}
        args.json.write_text(json.dumps(found, indent=1))
    return int(any(figure.verdict == "MISSED" for figure in figures))


def _measure(
    names: tuple[str, ...], data: Data, port: int, folder: Path, options: Options, *, quick: bool
) -> tuple[list[Figure], str]:
    frames = FramePath(data, port, options)
    processes = Processes(data, port, folder, 1 if quick else PAIRS)
    measures: dict[str, Callable[[], list[Figure]]] = {
        "duty": frames.duty,
        "cpu": frames.cpu,
        "latency": frames.latency,
        "cameras": frames.cameras,
        "message": frames.message,
        "memory": processes.memory,
        "start": processes.start,
        "away": lambda: broker_away(data, folder, options, 3.0 if quick else 30.0),
        "swaps": lambda: swaps(data, port, folder, quick=quick),
    }
    figures: list[Figure] = []
    for name, measure in measures.items():
        if name in names:
            print(f"{name} ...", file=sys.stderr, flush=True)
            figures += measure()
    return figures, profile(data, port, options) if "profile" in names else ""
