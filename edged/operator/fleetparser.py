"""`edgectl fleet`: devices at the operator's desk. Arguments only."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from edged.command import UsageError
from edged.errors import MessageError
from edged.operator import fleetcommands as run
from edged.operator import fleetdrift, fleetoptions

_Command = Callable[[argparse.Namespace], int]


def add_fleet_commands(areas: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the area `fleet` to the parser of `edgectl`."""
    area = areas.add_parser("fleet", help="devices: what runs where, and what is to run")
    commands = area.add_subparsers(required=True, metavar="COMMAND")

    listing = _add(commands, "list", run.list_devices, "what runs on which device")
    listing.add_argument("--group", type=fleetoptions.name, metavar="NAME", help="of this group")
    listing.add_argument("--model", type=fleetoptions.name, metavar="NAME", help="this model only")
    listing.add_argument("--json", action="store_true", help="print it as JSON")

    watch = _add(commands, "watch", run.watch, "what devices say, as they say it")
    watch.add_argument("--model", type=fleetoptions.name, metavar="NAME", help="this model only")
    watch.add_argument("--id", metavar="ID", help="this deployment only")
    watch.add_argument(
        "--until-done", action="store_true",
        help="with --model and --id: end with it; 0 only if it SUCCEEDED on all that began it",
    )  # fmt: skip
    watch.add_argument("--expect", type=fleetoptions.count, metavar="N", help="...and on N devices")
    fleetoptions.add_timeout(watch, None, "with --until-done an hour, else until Ctrl-C")
    watch.add_argument("--json", action="store_true", help="a line of JSON for each")

    deploy = _add(commands, "deploy", run.deploy, "have devices run a version")
    deploy.add_argument("model", type=fleetoptions.name, metavar="MODEL")
    deploy.add_argument("release", nargs="?", metavar="VERSION")
    deploy.add_argument(
        "--release", dest="let_go", action="store_true",
        help="instead of VERSION: want nothing any more, so that a wider Desired counts",
    )  # fmt: skip
    fleetoptions.add_devices(deploy)
    deploy.add_argument(
        "--percent", type=fleetoptions.percent, default=100, metavar="N",
        help="of the devices begin with it; `rollout` adds others",
    )  # fmt: skip
    deploy.add_argument("--id", metavar="ID", help="of the deployment (default: a fresh one)")
    deploy.add_argument(
        "--retain", action=argparse.BooleanOptionalAction, default=True,
        help="have the broker keep it for devices that come later",
    )  # fmt: skip
    fleetoptions.add_watch(deploy, expect=True)

    rollout = _add(commands, "rollout", run.rollout, "have more devices take part")
    rollout.add_argument("model", type=fleetoptions.name, metavar="MODEL")
    rollout.add_argument("id", metavar="ID", help="of the deployment")
    how = rollout.add_mutually_exclusive_group(required=True)
    how.add_argument("--percent", type=fleetoptions.percent, metavar="N", help="of the devices")
    how.add_argument(
        "--steps", type=fleetoptions.steps, metavar="N,N...",
        help="such as 5,25,100: wait for the results of each, stop where too many fail",
    )  # fmt: skip
    fleetoptions.add_devices(rollout)
    rollout.add_argument(
        "--pause", type=fleetoptions.seconds, default=0.0, metavar="MIN",
        help="with --steps: minutes between two, at the end of which it looks once more",
    )  # fmt: skip
    rollout.add_argument(
        "--max-failed", type=fleetoptions.percent, default=0, metavar="N",
        help="with --steps: percent of the devices that may fail (default: %(default)s)",
    )  # fmt: skip
    rollout.add_argument(
        "--force",
        action="store_true",
        help="lower the percentage, too; with --steps: go on where no step reached a device",
    )
    fleetoptions.add_watch(rollout, expect=False)

    back = _add(
        commands,
        "rollback",
        run.rollback,
        "have devices leave a version",
    )
    back.add_argument("model", type=fleetoptions.name, metavar="MODEL")
    back.add_argument("--from", dest="release", required=True, metavar="VERSION")
    fleetoptions.add_devices(back, group=False)
    fleetoptions.add_watch(back, expect=False)

    cancel = _add(commands, "cancel", run.cancel, "have devices give a deployment up")
    cancel.add_argument("id", metavar="ID", help="of the deployment")
    cancel.add_argument("--model", type=fleetoptions.name, required=True, metavar="NAME")
    fleetoptions.add_devices(cancel, group=False)
    fleetoptions.add_watch(cancel, expect=False)

    drift = _add(
        commands, "drift", fleetdrift.drift, "what devices saw, and whether to promote a candidate"
    )
    fleetdrift.add_drift_options(drift)


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: _Command,
    words: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=words, description=f"{words[0].upper()}{words[1:]}.")
    fleetoptions.add_broker_options(parser)
    if command not in (run.watch, fleetdrift.drift):
        fleetoptions.add_listening(parser)
    parser.set_defaults(command=lambda args: _as_usage(command, args))
    return parser


def _as_usage(command: _Command, args: argparse.Namespace) -> int:
    try:
        return command(args)
    except MessageError as error:  # what a device would refuse: an id or a version
        raise UsageError(f"{error} ({error.reason})") from error
