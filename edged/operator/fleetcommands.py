"""What the commands of `edgectl fleet` do, from arguments to the exit code."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from datetime import datetime

from edged.command import FAILED, OK, UsageError
from edged.errors import OperatorError
from edged.models.desired import Desired, encode_desired
from edged.operator import fleet, fleetwait
from edged.operator.fleetdesk import Desk
from edged.operator.fleetoptions import TIMEOUT_S, broker_of, confirm, to_of
from edged.operator.fleetplan import (
    ROLLED_BACK,
    SUCCEEDED,
    Row,
    To,
    Vigil,
    addressed,
    outranked,
    some,
)
from edged.operator.fleetscreen import (
    Board,
    fleet_rows,
    fleet_values,
    note,
    print_fleet,
    print_json,
    print_said,
    print_sent,
    summary,
)


def _desk(args: argparse.Namespace, model: str | None) -> Desk:
    topics = ["available", "info", "stats", "error", "model/+"]
    whats = ("state", "progress", "result", "desired")
    topics += [f"update/{model or '+'}/{what}" for what in whats]
    return Desk(broker_of(args), [f"+/{topic}" for topic in topics], note)


def list_devices(args: argparse.Namespace) -> int:
    """Print what runs on which device."""
    with _desk(args, args.model) as desk:
        desk.listen(args.seconds)
        with desk.fleet() as known:
            names = [
                name
                for name, device in sorted(known.devices.items())
                if (args.group is None or args.group in device.groups)
                and (args.model is None or args.model in device.models)
            ]
            rows = fleet_rows(known, names, args.model)
            values = fleet_values(known, names, args.model)
            ignored = known.ignored
    if args.json:
        print_json({"devices": values})
    elif rows:
        print_fleet(rows)
    if not names:
        note(
            f"no such device has said anything within {args.seconds:g} s. A broker that keeps no"
            " messages (RabbitMQ) knows only who speaks now: --seconds 70."
        )
    if ignored:
        note(f"{ignored} messages that no device and no edgectl sends were passed over.")
    return OK


def watch(args: argparse.Namespace) -> int:
    """Print what devices say, until Ctrl-C or until a deployment has ended."""
    if args.until_done and not (args.model and args.id):
        raise UsageError("--until-done goes with --model and --id.")
    if args.expect and not args.until_done:
        raise UsageError("--expect goes with --until-done.")
    good = ROLLED_BACK if (args.id or "").startswith(fleet.ROLLBACK_ID) else SUCCEEDED
    vigil = Vigil(args.model or "", args.id or "", good=good, expect=args.expect)
    timeout_s = TIMEOUT_S if args.until_done and args.timeout is None else args.timeout
    limit_mono_s = math.inf if timeout_s is None else time.monotonic() + timeout_s
    with _desk(args, args.model) as desk:
        try:
            while True:
                desk.listen(0.2)
                for said in desk.heard():
                    wanted = args.model in (None, said.model) or said.kind == "available"
                    if wanted and args.id in (None, said.deployment_id):
                        print_said(said, datetime.now().astimezone(), json=args.json)
                late = time.monotonic() >= limit_mono_s
                if args.until_done:
                    with desk.fleet() as known:
                        rows = vigil.rows(known)
                    if late or vigil.over(rows):
                        return _concluded(vigil, rows, timeout_s)
                elif late:
                    return OK
        except KeyboardInterrupt:
            return FAILED if args.until_done else OK


def deploy(args: argparse.Namespace) -> int:
    """Send a Desired."""
    if (args.release is None) != args.let_go:
        raise UsageError("give VERSION, or --release.")
    if args.let_go and args.watch:
        raise UsageError("--watch: devices give no result when they are released.")
    an_id = args.id or fleet.new_id(args.model, args.release or "release")
    desired = Desired(an_id, args.release, percent=args.percent)
    encode_desired(desired)  # refused before anything else is asked
    what = f"Release {args.model}" if args.let_go else f"Deploy {args.model} {args.release}"
    to = to_of(args)
    with _desk(args, args.model) as desk:
        if not _may(desk, args, to, what):
            return FAILED
        vigil = Vigil(
            args.model, an_id, None if args.expect else to,
            topics=to.topics(desk.prefix, args.model), percent=args.percent,
            expect=args.expect, insist=bool(to.devices),
        )  # fmt: skip
        if args.watch and not args.expect:
            _somebody(desk, to, args.model)
        print(f"deployment {an_id}", flush=True)
        fleet.deploy(desk, args.model, desired, to, retain=args.retain, sent=print_sent)
        return _followed(desk, vigil, args)


def rollout(args: argparse.Namespace) -> int:
    """Raise the percentage of a deployment, at once or in steps."""
    to = to_of(args)
    aim = args.percent if args.steps is None else args.steps[-1]
    with _desk(args, args.model) as desk:
        if not _may(desk, args, to, f"Raise {args.id} to {aim} % of the devices"):
            return FAILED
        vigil = Vigil(
            args.model, args.id, to, topics=to.topics(desk.prefix, args.model),
            percent=aim, insist=bool(to.devices),
        )  # fmt: skip

        def raise_to(percent: int) -> None:
            fleet.widen(desk, args.model, args.id, percent, to, force=args.force, sent=print_sent)

        if args.steps is None:
            raise_to(args.percent)
            return _followed(desk, vigil, args)
        _somebody(desk, to, args.model)
        now = fleet.reached(desk, args.model, args.id, to)
        steps = [step for step in args.steps if step >= now or args.force]
        if not steps:
            raise UsageError(f"--steps: {now} % are reached already.")
        with Board() as board:
            rows = fleetwait.staged(
                desk, vigil, steps, fleetwait.Patience(args.timeout, board.show), raise_to=raise_to,
                pause_s=args.pause * 60, most_failed=args.max_failed, say=note, untried=args.force,
            )  # fmt: skip
        note(f"{summary(rows) or 'nobody took part'}.")
        return OK


def rollback(args: argparse.Namespace) -> int:
    """Tell devices to leave a version."""

    def concerned(desk: Desk) -> Sequence[str]:
        return fleet.running(desk, args.model, args.release)

    def send(desk: Desk, devices: Sequence[str]) -> Vigil:
        return fleet.roll_back(desk, args.model, args.release, devices, sent=print_sent)

    return _commanded(args, f"Leave {args.model} {args.release}", concerned, send)


def cancel(args: argparse.Namespace) -> int:
    """Tell devices to give a deployment up."""

    def concerned(desk: Desk) -> Sequence[str]:
        return fleet.under_way(desk, args.model, args.id)

    def send(desk: Desk, devices: Sequence[str]) -> Vigil:
        return fleet.cancel(desk, args.model, args.id, devices, sent=print_sent)

    return _commanded(args, f"Cancel {args.id}", concerned, send)


def _commanded(
    args: argparse.Namespace,
    what: str,
    concerned: Callable[[Desk], Sequence[str]],
    send: Callable[[Desk, Sequence[str]], Vigil],
) -> int:
    """Send a command to the devices that are named, or known to be concerned."""
    with _desk(args, args.model) as desk:
        to = to_of(args)
        if to.devices:
            if not _may(desk, args, to, what):
                return FAILED
            devices: Sequence[str] = to.devices
        else:
            desk.listen(args.seconds)
            devices = concerned(desk)
            if not devices:
                raise OperatorError("nobody_concerned", "no known device is concerned.")
            if not confirm(args, f"{what} on {some(devices)}?"):
                note("nothing was sent.")
                return FAILED
        vigil = send(desk, devices)
        vigil.insist = bool(to.devices)
        return _followed(desk, vigil, args)


def _may(desk: Desk, args: argparse.Namespace, to: To, what: str) -> bool:
    """Listen, see that somebody is meant, and ask."""
    desk.listen(args.seconds)
    if not args.yes:
        fleet.check_known(desk, to, args.model)
    with desk.fleet() as known:
        reach = addressed(known, to, args.model)
        instead = {name: outranked(known, name, args.model, to.source) for name in reach}
        online = sum(known.devices[name].online is True for name in reach if name in known.devices)
    deaf = [f"{name} ({'its own' if who == name else who})" for name, who in instead.items() if who]
    if deaf:
        note(
            f"not reached, because a narrower Desired counts more: {some(deaf)}."
            f" `edgectl fleet deploy {args.model} --release --device ID` (or --group) ends that."
        )
    if confirm(args, f"{what} on {to} ({len(reach)} known, {online} online)?"):
        return True
    note("nothing was sent.")
    return False


def _somebody(desk: Desk, to: To, model: str) -> None:
    with desk.fleet() as known:
        if not addressed(known, to, model):
            raise OperatorError(
                "fleet_unheard",
                "no device that is meant has been heard of, so nobody knows whom to wait for.",
                advice="Say --expect N, or leave --watch out.",
            )


def _followed(desk: Desk, vigil: Vigil, args: argparse.Namespace) -> int:
    """Wait, where that is asked for, and say how it went."""
    if not args.watch:
        return OK
    with desk.fleet() as known:
        offline = vigil.offline(known)
    if offline:
        note(f"offline, and not waited for: {some(offline)}.")
    try:
        with Board() as board:
            rows = fleetwait.follow(desk, vigil, fleetwait.Patience(args.timeout, board.show))
    except KeyboardInterrupt:
        note("no longer waited for; it goes on. `edgectl fleet cancel` would end it.")
        return FAILED
    return _concluded(vigil, rows, args.timeout)


def _concluded(vigil: Vigil, rows: Sequence[Row], timeout_s: float) -> int:
    if not vigil.over(rows):
        waiting = [row.device for row in rows if not row.done]
        raise OperatorError(
            "fleet_timeout",
            f"no result within {timeout_s:g} s from {some(waiting) or 'enough devices'}.",
            advice=f"To go on: `edgectl fleet watch --model {vigil.model} --id"
            f" {vigil.deployment_id} --until-done`.",
        )
    note(f"{summary(rows) or 'nobody took part'}.")
    return OK if rows and all(row.good for row in rows) else FAILED
