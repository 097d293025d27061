"""Whom a deployment is for, how it stands with each of them, and how it goes on. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from edged.errors import OperatorError
from edged.models.desired import Desired, Source, in_rollout, topic_of
from edged.models.pursuit import AHEAD_MS
from edged.operator.fleetsaid import Said
from edged.operator.fleetview import Fleet

SUCCEEDED = frozenset({"SUCCEEDED"})
ROLLED_BACK = frozenset({"ROLLED_BACK"})
CANCELED = frozenset({"CANCELED", "ROLLED_BACK"})
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class To:
    """Whom a message is for: `devices`, or else a group; `all` is everybody."""

    devices: tuple[str, ...] = ()
    group: str = "all"

    @property
    def names(self) -> tuple[str, ...]:
        """The names in the topics."""
        return self.devices or (f"@{self.group}",)

    @property
    def source(self) -> Source:
        """What devices take it for."""
        if self.devices:
            return Source.DEVICE
        return Source.ALL if self.group == "all" else Source.GROUP

    def topics(self, prefix: str, model: str) -> tuple[str, ...]:
        """Return where a Desired goes."""
        return tuple(topic_of(prefix, name, model, "desired") for name in self.names)

    def __str__(self) -> str:
        if self.devices:
            return ", ".join(self.devices)
        return "all devices" if self.group == "all" else f"group {self.group}"


def addressed(fleet: Fleet, to: To, model: str) -> tuple[str, ...]:
    """Return the devices, as far as they are known, that a message about a model is for.

    A device that has said which models it has and has not this one never hears of it.
    """
    if to.devices:
        return to.devices
    return tuple(
        sorted(
            name
            for name, device in fleet.devices.items()
            if (model in device.models or not device.models)
            and (to.group == "all" or to.group in device.groups)
        )
    )


def outranked(fleet: Fleet, device: str, model: str, source: Source) -> str:
    """Return who decides for a device instead, with a retained Desired of its own, or ""."""
    seen = fleet.devices.get(device)
    groups = seen.groups if seen is not None and source is Source.ALL else ()
    higher = [] if source is Source.DEVICE else [device, *(f"@{group}" for group in groups)]
    for name in higher:
        held = fleet.desired.get((name, model))
        if held is not None and held.version is not None:
            return name
    return ""


@dataclass(frozen=True, slots=True)
class Row:
    """How it stands with one device; `done` is how it ended and `good` whether that was meant."""

    device: str
    word: str
    reason: str = ""
    detail: str = ""
    percent: int | None = None
    done: bool = False
    good: bool = False


@dataclass(slots=True)
class Vigil:
    """What is waited for after a message was sent.

    Attributes:
        model: the model's name.
        deployment_id: whose end is waited for.
        to: whom it is for; None where that is not known: whoever says something about it.
        good: the statuses that were meant.
        topics: that it was sent on: an error about one of them is an answer.
        percent: of the devices that take part.
        expect: how many ends are waited for, where `to` is None; None for all that have begun.
        insist: wait for devices that are offline too.
    """

    model: str
    deployment_id: str
    to: To | None = None
    good: frozenset[str] = SUCCEEDED
    topics: tuple[str, ...] = ()
    percent: int = 100
    expect: int | None = None
    insist: bool = False
    _met: set[str] = field(default_factory=set)
    _refused: dict[str, Said] = field(default_factory=dict)

    def hear(self, said: Said) -> None:
        """Take notice of an answer that is not about a deployment."""
        if said.kind == "error" and said.about in self.topics:
            self._refused[said.device] = said

    def rows(self, fleet: Fleet) -> list[Row]:
        """Return how it stands with each device that takes part.

        Devices that were offline all the time are not among them, unless that is insisted on.
        """
        names = (
            sorted({*self._begun(fleet), *self._refused})
            if self.to is None
            else [
                name
                for name in addressed(fleet, self.to, self.model)
                if self._takes_part(fleet, self.to, name) and self._met_it(fleet, name)
            ]
        )
        return [self._row(fleet, name) for name in names]

    def offline(self, fleet: Fleet) -> list[str]:
        """Return the devices that take part and that nobody waits for, since they are offline."""
        to = self.to
        if to is None:
            return []
        names = addressed(fleet, to, self.model)
        return [
            name
            for name in names
            if self._takes_part(fleet, to, name) and not self._met_it(fleet, name)
        ]

    def over(self, rows: Sequence[Row]) -> bool:
        """Say whether there is nothing left to wait for."""
        done = sum(row.done for row in rows)
        if self.to is None:
            return done >= self.expect if self.expect else 0 < done == len(rows)
        return done == len(rows)

    def _begun(self, fleet: Fleet) -> Iterator[str]:
        for name, device in fleet.devices.items():
            seen = device.models.get(self.model)
            if seen is not None and (
                self.deployment_id in seen.endings
                or (seen.last is not None and seen.last.deployment_id == self.deployment_id)
            ):
                yield name

    def _takes_part(self, fleet: Fleet, to: To, name: str) -> bool:
        inside = in_rollout(self.deployment_id, name, self.percent)
        return inside and not outranked(fleet, name, self.model, to.source)

    def _met_it(self, fleet: Fleet, name: str) -> bool:
        """Say whether a device is, or was, there to hear of it."""
        seen = fleet.devices.get(name)
        # Without retained messages nobody says `online` after the desk has come.
        if self.insist or (seen is not None and seen.online is not False):
            self._met.add(name)
        return name in self._met

    def _row(self, fleet: Fleet, name: str) -> Row:
        ended = fleet.ending(name, self.model, self.deployment_id)
        if ended is not None:
            good = ended.word in self.good
            return Row(name, ended.word, ended.reason, ended.detail, done=True, good=good)
        if name in self._refused:
            said = self._refused[name]
            return Row(name, said.word, said.reason, said.detail, done=True)
        seen, device = fleet.model(name, self.model), fleet.devices.get(name)
        last = None if seen is None else seen.last
        if seen is not None and last is not None and last.deployment_id == self.deployment_id:
            percent = seen.progress if last.word == "DOWNLOADING" else None
            return Row(name, last.word, last.reason, last.detail, percent)
        return Row(name, "offline" if device is not None and device.online is False else "waiting")


def wanted(desired: Desired | None, deployment_id: str) -> Desired:
    """Return what a source wants, if that is this deployment.

    Raises:
        OperatorError: `desired_unknown`, `desired_differs`.
    """
    if desired is None:
        raise OperatorError(
            "desired_unknown",
            f"the broker holds no Desired there, and so no percentage of {deployment_id}.",
            advice="`fleet deploy` with the same version, --id and --percent does it.",
        )
    if desired.deployment_id != deployment_id:
        raise OperatorError(
            "desired_differs", f"what is wanted there by now is {desired.deployment_id}."
        )
    return desired


def raised(desired: Desired, percent: int, now_ms: int, *, force: bool = False) -> Desired:
    """Return the Desired that takes the place of a source's present one, with more devices.

    Raises:
        OperatorError: `rollout_lowered`, unless forced.
    """
    if percent < desired.percent and not force:
        raise OperatorError(
            "rollout_lowered",
            f"{desired.percent} % are reached, and {percent} % take no device back.",
            advice="To take devices back: `fleet rollback`. To keep others out: --force.",
        )
    return replace(desired, percent=percent, order_ms=order_after(desired, now_ms))


def order_after(desired: Desired | None, now_ms: int) -> int:
    """Return an order that devices take: now, or just after the present one if that is later.

    One that is a day ahead was never taken by any device, and counts for nothing.
    """
    held_ms = 0 if desired is None else desired.order_ms or 0
    return max(now_ms, held_ms + 1) if held_ms <= now_ms + AHEAD_MS else now_ms


def failed_percent(rows: Sequence[Row]) -> float:
    """Return how many of the devices did not end as meant, in percent; 0 of none."""
    return 100 * sum(not row.good for row in rows) / len(rows) if rows else 0.0


def some(names: Sequence[str]) -> str:
    """Return a list for a sentence, cut where it is long."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
