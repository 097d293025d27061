"""The demo: a broker, the daemon on the sample scene, and what a subscriber receives.

Nothing here is special to the demo but the display: the daemon is `edged run` in a process of its
own, and everything shown has come over MQTT. With --ota models come over the air as well, one that
is as good and five that are not, from a repository that `edgectl` makes and serves.
"""

from __future__ import annotations

import argparse
import math
import signal
import sys
import tempfile
import threading
from pathlib import Path

from edged.demo.processes import DemoError


def main(arguments: list[str] | None = None) -> int:
    """Run the demo.

    Returns:
        0 when predictions arrived, and with --ota when all went as announced; else 1.
    """
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    acts = parser.add_mutually_exclusive_group()
    acts.add_argument(
        "--seconds", type=_positive, metavar="N", help="stop by itself after N seconds"
    )
    acts.add_argument(
        "--ota", action="store_true", help="models over the air: a minute, stops by itself"
    )
    args = parser.parse_args(arguments)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with tempfile.TemporaryDirectory(prefix="edged-demo-") as folder:
            return _run(Path(folder), args, stop)
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1


def _run(folder: Path, args: argparse.Namespace, stop: threading.Event) -> int:
    # ruff: noqa: PLC0415 - each act needs libraries that the other one does not
    if args.ota:
        from edged.demo.ota import show

        return show(folder, stop)
    from edged.demo.live import watch

    return watch(folder, args.seconds, stop)


def _positive(text: str) -> float:
    value = float(text)
    if not (math.isfinite(value) and value > 0):
        raise argparse.ArgumentTypeError("must be greater than 0")
    return value


if __name__ == "__main__":
    sys.exit(main())
