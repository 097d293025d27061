"""`edgectl model`: packages at the operator's desk. Arguments and presentation only."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from functools import partial
from pathlib import Path

import orjson

from edged.command import FAILED, OK, new_file
from edged.models.manifest import Manifest, encode_manifest
from edged.models.package import read_package
from edged.models.validation import Validation
from edged.operator.manifestoptions import add_manifest_options, manifest_choices

# ruff: noqa: PLC0415 - packing and trying need the runtimes, inspecting and `repo` do not


def add_model_commands(areas: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the area `model` to the parser of `edgectl`."""
    area = areas.add_parser("model", help="packages: a model with what devices must know of it")
    commands = area.add_subparsers(required=True, metavar="COMMAND")

    pack = commands.add_parser("pack", help="make a package of a .tflite file")
    pack.add_argument("model", type=Path, metavar="MODEL.tflite")
    pack.add_argument("--name", required=True, help="of the [[model]] on the devices")
    pack.add_argument("--version", required=True, help="such as 1.4.0")
    pack.add_argument(
        "--golden", type=Path, required=True, metavar="DIR",
        help="images that the model sees right, best in a folder for each label",
    )  # fmt: skip
    pack.add_argument(
        "--reference", type=Path, metavar="DIR",
        help="validation images; how the model sees them goes into the package, for comparison",
    )  # fmt: skip
    pack.add_argument("--labels", type=Path, metavar="FILE", help="one label a line")
    pack.add_argument(
        "--edgetpu-model", type=Path, metavar="FILE", help="the same, compiled for the Edge TPU"
    )
    pack.add_argument("--color", choices=("rgb", "bgr"), help="what it was trained with")
    pack.add_argument("--resize", choices=("stretch", "center_crop", "letterbox"))
    add_manifest_options(pack)
    pack.add_argument("-o", "--output", type=new_file, required=True, metavar="PACKAGE.zip")
    pack.set_defaults(command=_pack)

    inspect = commands.add_parser("inspect", help="say what a package says about itself")
    inspect.set_defaults(command=_inspect)
    check = commands.add_parser("check", help="try a package as a device does")
    check.set_defaults(command=_check)
    for parser in (inspect, check):
        parser.add_argument("package", type=Path, metavar="PACKAGE.zip")
    for parser in (pack, inspect, check):
        parser.add_argument("--json", action="store_true", help="print the result as JSON")


def _pack(args: argparse.Namespace) -> int:
    from edged.operator.apart import apart
    from edged.operator.pack import Choices, pack

    choices = Choices(
        labels=args.labels,
        edgetpu_model=args.edgetpu_model,
        color=args.color,
        resize=args.resize,
        reference_dir=args.reference,
        **manifest_choices(args),
    )
    packing = partial(
        pack,
        args.model,
        name=args.name,
        version=args.version,
        golden_dir=args.golden,
        output=args.output,
        choices=choices,
    )
    packed = apart(packing)
    if args.json:
        values = {"file": str(packed.path), "sha256": packed.sha256, "notes": packed.notes}
        print(orjson.dumps(values | _tried(packed.tried)).decode())
        return OK
    print(f"{packed.path}: {args.name} {args.version}, sha256 {packed.sha256}")
    print(f"tried as devices will: {_how(packed.tried)}")
    for note in packed.notes:
        print(f"note: {note}")
    return OK


def _inspect(args: argparse.Namespace) -> int:
    package = read_package(args.package)
    if args.json:
        print(encode_manifest(package.manifest).decode())
    else:
        print("\n".join(_described(package.manifest, package.unpacked_bytes)))
    return OK


def _check(args: argparse.Namespace) -> int:
    from edged.operator.pack import check

    tried = check(args.package)
    if args.json:
        print(orjson.dumps(_tried(tried)).decode())
    elif tried.reason is None:
        print(f"{args.package}: fine: {_how(tried)}")
    else:
        bad = ", and marked bad" if tried.marks else ""
        print(f"{args.package}: refused{bad}: {tried.detail} ({tried.reason})")
    return OK if tried.reason is None else FAILED


def _how(tried: Validation) -> str:
    """Return how a sound candidate did."""
    if tried.measured is None:
        return "sound, but it runs on an Edge TPU only and was not run here"
    found = tried.measured
    return (
        f"golden set {found.golden}; invoke {found.p50_ms:.1f} ms, 95 % within"
        f" {found.p95_ms:.1f} ms; {found.memory_bytes / 1e6:.0f} MB; {found.runtime}"
    )


def _tried(tried: Validation) -> dict[str, object]:
    measured = None if tried.measured is None else asdict(tried.measured)
    return {
        "reason": tried.reason,
        "detail": tried.detail,
        "marks": tried.marks,
        "measured": measured,
    }


def _described(manifest: Manifest, unpacked_bytes: int) -> list[str]:
    shown, golden = manifest.input, "none"
    shape = " x ".join(str(size) for size in shown.shape)
    if manifest.golden is not None:
        golden = f"{manifest.golden.samples} samples by {manifest.golden.made_with}"
    return [
        f"{manifest.name} {manifest.version}, {manifest.task}, made {manifest.created}",
        f"  input     {shape} {shown.dtype}, {shown.color}, {shown.resize}",
        f"  labels    {manifest.labels or 'none'}",
        f"  runs on   {', '.join(sorted(manifest.processors()))}",
        f"  golden    {golden}",
        f"  needs     {_needs(manifest)}",
        f"  trial     {_terms(manifest)}",
        *(
            f"  {name:20} {file.bytes:>11,} bytes  sha256 {file.sha256[:16]}"
            for name, file in sorted(manifest.files.items())
        ),
        f"  {'unpacked':20} {unpacked_bytes:>11,} bytes",
    ]


def _needs(manifest: Manifest) -> str:
    wanted = manifest.requires
    words = [f"{name} {least}" for name, least in sorted(wanted.runtime.items())]
    if wanted.memory_bytes:
        words.append(f"{wanted.memory_bytes:,} bytes of memory")
    return ", ".join(words) or "nothing in particular"


def _terms(manifest: Manifest) -> str:
    terms = manifest.trial
    most = "" if terms.max_disagreement is None else f", disagreement {terms.max_disagreement:g}"
    least = [f"{terms.frames} frames"] if terms.frames else []
    least += [f"{terms.seconds:g} s"] if terms.seconds else []
    length = f"at least {', '.join(least)}" if least else "as long as the device says"
    return f"{length}; at most {terms.p95_ratio:g} times the time{most}"
