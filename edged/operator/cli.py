"""`edgectl`: the command at the operator's desk. Arguments and presentation only."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import orjson

from edged import __version__
from edged.command import OK, UsageError, new_file, run
from edged.models.files import storing
from edged.models.package import read_package
from edged.operator.fleetparser import add_fleet_commands
from edged.operator.fleetscreen import print_table
from edged.operator.keys import ROLES, Elsewhere
from edged.operator.modelcommands import add_model_commands
from edged.operator.published import PublicFiles, State
from edged.operator.repo import Repo, utc_now
from edged.operator.serve import Server

_SOON_DAYS = 30


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: without the program's name; those of the process by default.

    Returns:
        0 ok, 1 failed, 2 usage.
    """
    return run(_parser(), arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgectl", description="Models for a fleet of edged devices."
    )
    parser.add_argument("--version", action="version", version=f"edgectl {__version__}")
    areas = parser.add_subparsers(required=True, metavar="AREA")
    repo = areas.add_parser("repo", help="the signed repository that devices fetch from")
    commands = repo.add_subparsers(required=True, metavar="COMMAND")

    init = _add(commands, "init", _init, "make a repository and its keys")
    init.add_argument(
        "--threshold", metavar="ROLE=N", action="append", default=[],
        help=f"so many keys must sign ({', '.join(ROLES)}); 1 where not said",
    )  # fmt: skip
    init.add_argument(
        "--expires", metavar="ROLE=DAYS", action="append", default=[],
        help="metadata are good for so long; root and targets 365, snapshot and timestamp 30",
    )  # fmt: skip
    init.add_argument("--root-keys", metavar="N", type=int, default=1, help="make so many")
    init.add_argument(
        "--signer", nargs=3, metavar=("ROLE", "URI", "PUBLIC.pem"), action="append", default=[],
        help="a key kept elsewhere, as securesystemslib names it: hsm:..., awskms:..., gcpkms:...",
    )  # fmt: skip

    publish = _add(commands, "publish", _publish, "sign a package in")
    publish.add_argument("package", type=Path, metavar="PACKAGE.zip")
    publish.add_argument(
        "--downgrade-ok", action="store_true", help="devices with a later version may take it"
    )

    _add(commands, "list", _list, "the versions that are published, and until when all is good")

    withdraw = _add(commands, "withdraw", _withdraw, "take a version out")
    withdraw.add_argument("name", metavar="NAME")
    withdraw.add_argument("release", metavar="VERSION")

    refresh = _add(commands, "refresh", _refresh, "sign snapshot and timestamp again (for a timer)")
    refresh.add_argument(
        "--all", action="store_true", help="root and targets as well: needs the offline keys"
    )

    rotate = _add(commands, "rotate-key", _rotate, "replace a key")
    rotate.add_argument("role", choices=ROLES, metavar="ROLE", help=", ".join(ROLES))
    rotate.add_argument("--key", metavar="ID", help="beginning of the old key's id")
    rotate.add_argument(
        "--signer", nargs=2, metavar=("URI", "PUBLIC.pem"), help="the new key is kept elsewhere"
    )

    root = _add(commands, "root", _root, "print the root.json that devices trust")
    root.add_argument("-o", "--output", type=new_file, metavar="FILE", help="write it there")

    export = _add(commands, "export", _export, "write metadata and a package to a tar, for a stick")
    export.add_argument("target", metavar="TARGET", help="NAME/VERSION.zip")
    export.add_argument("-o", "--output", type=new_file, metavar="FILE.tar", required=True)

    serve = _add(commands, "serve", _serve, "serve the repository for a trial")
    serve.add_argument("--port", type=int, default=8000, metavar="N", help="%(default)s; 0: any")
    serve.add_argument(
        "--bind", default="127.0.0.1", metavar="ADDRESS", help="%(default)s; 0.0.0.0: everybody"
    )
    add_model_commands(areas)
    add_fleet_commands(areas)
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    command: Callable[[argparse.Namespace], int],
    words: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=words)
    parser.add_argument("directory", type=Path, metavar="DIR", help="the repository")
    parser.add_argument("--keys", type=Path, metavar="DIR", help="its keys (default: DIR-keys)")
    if command is not _serve and command is not _root:
        parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(command=command)
    return parser


def _repo(args: argparse.Namespace) -> Repo:
    return Repo(args.directory, args.keys)


def _init(args: argparse.Namespace) -> int:
    thresholds = _numbers(args.threshold, "--threshold")
    root_keys = max(args.root_keys, thresholds.get("root", 1))
    elsewhere = []
    for role, uri, public in args.signer:
        if role not in ROLES:
            raise UsageError(f"--signer: there is no role {role}; there are {', '.join(ROLES)}.")
        elsewhere.append((role, Elsewhere(uri, Path(public))))
    repo = _repo(args)
    state = repo.init(
        thresholds,
        root_keys=root_keys,
        elsewhere=elsewhere,
        days=_numbers(args.expires, "--expires"),
    )
    _say(
        args,
        f"{args.directory}: metadata/ and targets/ are to be served, nothing in them is secret.\n"
        f"{repo.keys.directory}: the keys. Copy offline/ to two sticks and remove it here.",
        {"directory": str(args.directory), "keys": str(repo.keys.directory), **_expiries(state)},
    )
    return OK


def _publish(args: argparse.Namespace) -> int:
    manifest = read_package(args.package).manifest
    name, version = manifest.name, manifest.version
    changed = _repo(args).publish(
        args.package, name, version, {"downgrade_ok": args.downgrade_ok}, _progress()
    )
    _say(
        args,
        f"{name} {version}: {'published' if changed else 'was published already'}.",
        {"name": name, "version": version, "changed": changed},
    )
    return OK


def _withdraw(args: argparse.Namespace) -> int:
    _repo(args).withdraw(args.name, args.release)
    _say(
        args,
        f"{args.name} {args.release}: withdrawn. Devices that run it go on with it.",
        {"name": args.name, "version": args.release},
    )
    return OK


def _list(args: argparse.Namespace) -> int:
    state = _repo(args).published.state()
    packages = state.packages()
    if args.json:
        values = [asdict(one) for one in packages]
        _say_expiries(args, state, {"packages": values})
        return OK
    names = ["MODEL", "VERSION", "BYTES", "SHA-256", "DOWNGRADE"]
    rows = [
        [
            one.name,
            one.version,
            f"{one.bytes:,}",
            one.sha256[:12],
            "ok" if one.downgrade_ok else "-",
        ]
        for one in packages
    ]
    if rows:
        print_table(names, rows)
    else:
        print("Nothing is published yet.")
    _say_expiries(args, state)
    return OK


def _refresh(args: argparse.Namespace) -> int:
    state = _repo(args).refresh(everything=args.all)
    _say_expiries(args, state)
    return OK


def _say_expiries(
    args: argparse.Namespace, state: State, values: Mapping[str, object] | None = None
) -> None:
    """Print until when each role is good, and a reminder of what the timer cannot renew."""
    lines = [f"{role} is good until {when:%Y-%m-%d}." for role, when in state.expires().items()]
    _say(args, "\n".join(lines), {**(values or {}), **_expiries(state)})
    for role in ("root", "targets"):
        days = (state.expires()[role] - utc_now()).days
        if days < _SOON_DAYS:
            print(
                f"edgectl: {role} expires in {days} days, then devices take no updates:"
                " `edgectl repo refresh --all` with the offline keys.",
                file=sys.stderr,
            )


def _rotate(args: argparse.Namespace) -> int:
    elsewhere = Elsewhere(args.signer[0], Path(args.signer[1])) if args.signer else None
    repo = _repo(args)
    key, place = repo.rotate_key(args.role, args.key, elsewhere)
    # A file is named as the shell finds it; what lives elsewhere by its URI.
    there = place and place.replace("file:", f"{repo.keys.directory}/", 1)
    old = f" The old one is worthless now: remove {there}." if there else ""
    _say(
        args,
        f"{args.role}: key {key[:8]} signs from now on.{old}",
        {"role": args.role, "key": key, "old": place},
    )
    return OK


def _root(args: argparse.Namespace) -> int:
    data = _repo(args).published.root()
    if args.output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        with storing(f"cannot write {args.output}"):
            PublicFiles().write_atomic(args.output, data)
    return OK


def _export(args: argparse.Namespace) -> int:
    repo = _repo(args)
    repo.published.export(args.target, args.output, PublicFiles())
    state = repo.published.state()
    until = min(state.expires().values())
    _say(
        args,
        f"{args.output}: {args.target}, good until {until:%Y-%m-%d}.",
        {"file": str(args.output), "target": args.target, "expires": _text(until)},
    )
    return OK


def _serve(args: argparse.Namespace) -> int:
    repo = _repo(args)
    repo.published.state()
    with Server(repo.published.directory, args.bind, args.port) as server:
        url = server.url
        print(f'metadata_url = "{url}/metadata"\ntargets_url = "{url}/targets"', flush=True)
        if server.bound.is_loopback:
            print("Only this machine can reach it: --bind 0.0.0.0 lets others.", file=sys.stderr)
        server.serve_forever()
    return OK


def _numbers(given: list[str], option: str) -> dict[str, int]:
    found = {}
    for text in given:
        match = re.fullmatch(rf"({'|'.join(ROLES)})=([1-9][0-9]{{0,3}})", text)
        if not match:
            raise UsageError(
                f"{option}: must be ROLE=N, a whole number, e.g. root=2; {text!r} is not."
            )
        found[match[1]] = int(match[2])
    return found


def _progress() -> Callable[[int, int], None]:
    if not sys.stderr.isatty():
        return lambda _count, _total: None

    def show(count: int, total: int) -> None:
        end = "\n" if count == total else ""
        print(f"\r{count * 100 // max(total, 1):3d} %", end=end, file=sys.stderr, flush=True)

    return show


def _say(args: argparse.Namespace, words: str, values: dict[str, object]) -> None:
    print(orjson.dumps(values).decode() if args.json else words)


def _expiries(state: State) -> dict[str, object]:
    return {"expires": {role: _text(when) for role, when in state.expires().items()}}


def _text(when: datetime) -> str:
    return f"{when:%Y-%m-%dT%H:%M:%SZ}"
