"""`scripts/build-deb`: arguments and presentation."""

from __future__ import annotations

import argparse
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from debian.package import Package
from debian.suites import ARCHITECTURES, ROOT, SUITES, BuildError
from debian.wheels import fetch, pin


def main() -> int:
    """Build one package; 0 ok, 1 failed."""
    parser = argparse.ArgumentParser(prog="scripts/build-deb")
    parser.add_argument("--arch", choices=ARCHITECTURES, default="amd64", help="%(default)s")
    parser.add_argument("--suite", choices=SUITES, default="bookworm", help="%(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIR")
    parser.add_argument("--pin", action="store_true", help="resolve the bundled wheels anew")
    parser.add_argument("--weigh", action="store_true", help="print what weighs what")
    parser.add_argument("--lint", action="store_true", help="fail where lintian finds fault")
    args = parser.parse_args()
    suite = SUITES[args.suite]
    try:
        if args.pin:
            pin(suite, args.arch)
        wheels = fetch(suite, args.arch, ROOT / "build/wheels" / f"{suite.name}-{args.arch}")
        with tempfile.TemporaryDirectory(prefix="edged-deb-") as name:
            package = Package(suite, args.arch, Path(name) / "edged")
            package.tree.mkdir()
            package.fill(wheels)
            if args.weigh:
                _weigh(package)
            path = package.archive(args.out.resolve())
        if args.lint:
            _lint(path)
    except (BuildError, subprocess.CalledProcessError, OSError) as error:
        print(f"build-deb: {error}", file=sys.stderr)
        return 1
    print(f"{path} {path.stat().st_size / 1e6:.1f} MB")
    return 0


def _lint(path: Path) -> None:
    """Have lintian look at a package: errors and warnings that nothing overrides are faults."""
    if shutil.which("lintian") is None:
        raise BuildError("lintian is not installed (apt install lintian).")
    command = ["lintian", "--fail-on=error,warning"]
    command += ["--allow-root"] if os.geteuid() == 0 else []
    done = subprocess.run(
        [*command, "--tag-display-limit=0", str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BuildError(f"lintian: {done.stdout}{done.stderr}")


def _weigh(package: Package) -> None:
    """Print the parts as installed, and each one compressed by itself."""
    parts: dict[str, list[Path]] = {}
    for path in sorted(package.tree.rglob("*")):
        if path.is_file() and not path.is_symlink():
            inside = path.is_relative_to(package.site)
            part = path.relative_to(package.site).parts[0] if inside else "what is not Python"
            part = part.split("-")[0].removesuffix(".libs").removesuffix(".py").lower()
            names = {"cv2": "opencv", "opencv_python_headless": "opencv"}
            parts.setdefault(names.get(part, part), []).append(path)
    sizes = Counter({part: sum(p.stat().st_size for p in paths) for part, paths in parts.items()})
    print("| part | installed | compressed |\n|---|---|---|")
    for part, size in sizes.most_common(12):
        packed = lzma.compress(b"".join(path.read_bytes() for path in parts[part]), preset=6)
        print(f"| {part} | {size / 1e6:.1f} MB | {len(packed) / 1e6:.1f} MB |", flush=True)
    rest = sum(size for _, size in sizes.most_common()[12:])
    print(f"| {len(sizes) - 12} others | {rest / 1e6:.1f} MB | |")
    print(f"| all | {sizes.total() / 1e6:.1f} MB | |")


if __name__ == "__main__":
    sys.exit(main())
