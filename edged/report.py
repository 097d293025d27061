"""What the daemon says about itself: snapshots of the running parts as wire values."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import cast

import orjson

from edged import __version__
from edged.board import board_name, temperatures_c
from edged.config import Config
from edged.errors import Trouble
from edged.inference.edgetpu import list_edgetpus
from edged.inference.interpreter import installed_runtimes
from edged.mqtt.messages import (
    BrokerStats,
    CameraInfo,
    CameraStats,
    DeviceInfo,
    ModelInfo,
    PartInfo,
    Stats,
    Versions,
    encode_info,
)
from edged.mqtt.status import SessionStatus
from edged.pipeline.capture import Capture
from edged.pipeline.lane import Lane
from edged.pipeline.modelslot import ModelSlot
from edged.redact import redacted


def model_info(slot: ModelSlot, requested: str, journal: Trouble | None) -> ModelInfo:
    """Describe a model as it runs, or why it does not.

    Args:
        slot: where it runs.
        requested: accelerator.
        journal: what was wrong with its journal at the start.
    """
    servable, trouble, remembered = slot.current, slot.trouble, _part(journal)
    reason, detail = (trouble.reason, trouble.detail) if trouble else ("", "")
    if servable is None:
        reason = reason or "loading"
        return ModelInfo(slot.name, "", "", "", "", "", requested, reason, detail, remembered)
    if not reason and servable.fallback is not None:
        reason, detail = servable.fallback.reason, servable.fallback.detail
    return ModelInfo(
        name=slot.name,
        version=servable.id.version,
        sha256=servable.id.sha256,
        kind=servable.kind,
        runtime=f"{servable.runtime.name} {servable.runtime.version}",
        accelerator=servable.accelerator,
        requested_accelerator=requested,
        reason=reason,
        detail=detail,
        journal=remembered,
    )


def _part(trouble: Trouble | None) -> PartInfo:
    return PartInfo(trouble.reason, trouble.detail) if trouble else PartInfo()


def device_info(
    config: Config,
    slots: Mapping[str, ModelSlot],
    captures: Iterable[Capture],
    last_stop: str,
    *,
    refused: Trouble | None,
    spool: Trouble | None,
    updates: Trouble | None,
    drift: Trouble | None,
    journals: Mapping[str, Trouble],
) -> DeviceInfo:
    """Describe the device: what it is, what it sees with, what it runs.

    Args:
        config: what runs.
        slots: of models, by name.
        captures: of cameras.
        last_stop: why the run before stopped.
        refused: why a changed configuration does not run.
        spool: what is wrong with the outbox on disk.
        updates: what is wrong with updates over the air.
        drift: what is wrong with what drift keeps on the disk.
        journals: what was wrong with journals at the start, by model.
    """
    return DeviceInfo(
        versions=Versions(
            __version__,
            platform.python_version(),
            ", ".join(f"{runtime.name} {runtime.version}" for runtime in installed_runtimes()),
        ),
        board=board_name(),
        accelerators=tuple(f"{device.bus}:{device.node}" for device in list_edgetpus()),
        cameras=tuple(
            CameraInfo(
                worker.config.name,
                worker.config.source,
                worker.state.state,
                worker.state.reason,
                worker.state.detail,
            )
            for worker in captures
        ),
        models=tuple(
            model_info(slots[model.name], model.accelerator, journals.get(model.name))
            for model in config.model
        ),
        groups=config.groups,
        last_stop=last_stop,
        configuration=_part(refused),
        outbox=_part(spool),
        updates=_part(updates),
        drift=_part(drift),
    )


def control_status(
    config: Config,
    info: DeviceInfo,
    lanes: Iterable[Lane],
    session: SessionStatus,
    last: Stats | None,
) -> dict[str, object]:
    """Return what `edged status` shows, as JSON can carry it, without credentials.

    Args:
        config: what runs.
        info: as it is published.
        lanes: one per camera, in the order of `info.cameras`.
        session: with the broker.
        last: the latest stats; None before the first. Their rates are over `mqtt.stats_s`.
    """
    told = orjson.loads(encode_info(info))
    del told["schema"]
    rates = {camera.name: camera for camera in last.cameras} if last is not None else {}
    for camera, lane in zip(told["cameras"], lanes, strict=True):
        counters, rate = lane.counters, rates.get(lane.camera)
        camera |= {
            "model": lane.model.name,
            "captured": counters.captured,
            "replaced": counters.replaced,
            "inferred": counters.inferred,
            "published": counters.published,
            "withheld": counters.withheld,
            "errors": dict(counters.errors),
            "published_per_s": None if rate is None else round(rate.published_per_s, 3),
            "invoke_ms": {} if rate is None else rate.invoke_ms,
        }
    told["broker"] = {
        "host": config.mqtt.host,
        "port": config.mqtt.effective_port,
        "state": session.state,
        "reason": session.reason,
        "detail": redacted(session.detail),
        "for_s": round(time.monotonic() - session.since_mono_s, 1),
        "protocol": session.protocol,
        "reconnects": session.reconnects,
    }
    told["outbox"] |= {
        "queued": session.queued,
        "queued_bytes": session.queued_bytes,
        "stored": session.stored,
        "in_flight": session.in_flight,
        "dropped": asdict(session.dropped),
    }
    return cast("dict[str, object]", told)


class StatsReporter:
    """Makes one `stats` message per interval out of counters that only grow.

    Args:
        lanes: one per camera.
    """

    def __init__(self, lanes: Iterable[Lane]) -> None:
        self._lanes = tuple(lanes)
        self._began_s = self._last_s = time.monotonic()
        self._before: dict[str, tuple[int, int, int]] = {}

    def take(self, session: SessionStatus) -> Stats:
        """Return the stats since the last call, and begin a new interval."""
        now_s = time.monotonic()
        elapsed_s = max(now_s - self._last_s, 1e-3)
        self._last_s = now_s
        return Stats(
            t=time.time(),
            uptime_s=now_s - self._began_s,
            cameras=tuple(self._camera(lane, elapsed_s) for lane in self._lanes),
            mqtt=BrokerStats(
                reconnects=session.reconnects,
                queued=session.queued,
                queued_bytes=session.queued_bytes,
                stored=session.stored,
                in_flight=session.in_flight,
                dropped=asdict(session.dropped),
            ),
            temperatures=temperatures_c(),
        )

    def _camera(self, lane: Lane, elapsed_s: float) -> CameraStats:
        counters = lane.counters
        totals = (counters.captured, counters.inferred, counters.published)
        before = self._before.get(lane.camera, (0, 0, 0))
        self._before[lane.camera] = totals
        captured, inferred, published = (
            (now - then) / elapsed_s for now, then in zip(totals, before, strict=True)
        )
        stats = CameraStats(
            name=lane.camera,
            model=lane.model.name,
            captured_per_s=captured,
            inferred_per_s=inferred,
            published_per_s=published,
            captured=counters.captured,
            replaced=counters.replaced,
            no_model=counters.no_model,
            inferred=counters.inferred,
            published=counters.published,
            withheld=counters.withheld,
            overrun=counters.overrun,
            reconnects=counters.reconnects,
            errors=dict(counters.errors),
            invoke_ms=counters.invoke.percentiles_ms(),
            latency_ms=counters.latency.percentiles_ms(),
        )
        counters.invoke.clear()
        counters.latency.clear()
        return stats
