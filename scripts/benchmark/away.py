"""A broker that goes away and comes back: nothing is lost, and nothing gets slower."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from benchmark.assembled import Assembled, configuration, load
from benchmark.figures import Figure, spread
from benchmark.frames import Options
from benchmark.world import Broker, Data, Subscriber, wait_for

PER_SECOND = 30.0
# The session tries again after a pause that has doubled up to a minute meanwhile.
_BACK_LIMIT_S = 120.0


def broker_away(data: Data, folder: Path, options: Options, away_s: float) -> list[Figure]:
    """30 predictions/s from a free-running camera; slices with the broker, without, with again."""
    broker = Broker(folder / "away").start()
    config = configuration(data.v2, broker.port, device="away", per_second=PER_SECOND)
    reader = Subscriber(broker.port, "away")
    edged = Assembled(config, data.image, load(config))
    wait_for("the session", lambda: edged.session.status().state == "connected")
    slices = max(options.slices, round(away_s / options.seconds))
    seconds = away_s / slices
    there = [edged.slice(seconds) for _ in range(slices)]
    broker.stop()
    away = [edged.slice(seconds) for _ in range(slices)]
    queued = edged.session.status().queued
    broker.start()
    begun_s, back = time.monotonic(), []
    while edged.session.status().state != "connected" or edged.session.status().queued:
        back.append(edged.slice(seconds))
        if time.monotonic() - begun_s > _BACK_LIMIT_S:
            break
    back_s = time.monotonic() - begun_s
    back += [edged.slice(seconds) for _ in range(slices)]
    published = edged.published
    with contextlib.suppress(SystemExit):  # the figure says how many are missing
        wait_for("all predictions", lambda: reader.distinct() >= published, 30.0)
    missing, disorder = published - reader.distinct(), reader.disorder()
    repeated = reader.received - reader.distinct()
    edged.stop()
    reader.close()
    broker.stop()
    duty = {
        "there": [one["duty"] for one in there],
        "away": [one["duty"] for one in away],
        "back": [one["duty"] for one in back],
    }
    beside = (
        f"{published} published, {queued} waited in the outbox, {repeated} came twice;"
        f" drained {back_s:.0f} s after its return"
    )
    details = {"published": published, "queued": queued, "repeated": repeated, **duty}
    return [
        Figure(
            f"broker away {away_s:g} s: lost",
            (float(missing),),
            must=0,
            digits=0,
            beside=beside,
            details=details,
        ),
        Figure("broker away: out of order", (float(disorder),), must=0, digits=0),
        Figure(
            "broker away: loss of duty",
            tuple(one - other for one, other in zip(duty["there"], duty["away"], strict=True)),
            must=0.02,
            digits=3,
            beside=", ".join(f"{name} {spread(values, 3)}" for name, values in duty.items()),
        ),
    ]
