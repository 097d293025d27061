"""`scripts/build-image`: the environment of the Debian package as a container image."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from debian import papers
from debian.package import Package
from debian.suites import ARCHITECTURES, ROOT, SUITES, BuildError
from debian.wheels import fetch

CONTAINERFILE = ROOT / "packaging/oci/Containerfile"
NAME = "localhost/edged"
# In docker's format: OCI's own has no health check.
_BUILD = {
    "buildah": ["build", "--isolation=chroot", "--format=docker"],
    "podman": ["build", "--isolation=chroot", "--format=docker"],
    "docker": ["build"],
}
_SAVE = {
    "buildah": ["push", "--quiet", "{image}", "docker-archive:{path}:{image}"],
    "podman": ["save", "--quiet", "--format=docker-archive", "--output={path}", "{image}"],
    "docker": ["save", "--output={path}", "{image}"],
}


def main() -> int:
    """Build one image; 0 ok, 1 failed."""
    parser = argparse.ArgumentParser(prog="scripts/build-image")
    parser.add_argument("--arch", choices=ARCHITECTURES, default="amd64", help="%(default)s")
    parser.add_argument("--suite", choices=SUITES, default="bookworm", help="%(default)s")
    parser.add_argument("--out", type=Path, default=ROOT / "dist", metavar="DIR")
    parser.add_argument(
        "--edgetpu", type=Path, metavar="FILE.deb", help="a package of libedgetpu1, taken in"
    )
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--base", metavar="IMAGE", help="docker.io/library/debian:SUITE-slim")
    base.add_argument(
        "--base-tree", type=Path, metavar="DIR", help="a Debian that debootstrap made, instead"
    )
    args = parser.parse_args()
    suite = SUITES[args.suite]
    try:
        tool = builder()
        wheels = fetch(suite, args.arch, ROOT / "build/wheels" / f"{suite.name}-{args.arch}")
        with tempfile.TemporaryDirectory(prefix="edged-image-", dir=_place()) as name:
            context = Path(name)
            package = Package(suite, args.arch, context / "tree")
            _fill(package, wheels, args.edgetpu)
            base_image = args.base or f"docker.io/library/debian:{suite.name}-slim"
            if args.base_tree is not None:
                base_image = _imported(tool, args.base_tree, package, context)
            image = f"{NAME}:{package.version.replace('~', '-')}"
            _build(tool, package, context, base_image, image)
            path = _saved(tool, image, args.out.resolve() / _file_name(package))
    except (BuildError, subprocess.CalledProcessError, OSError) as error:
        print(f"build-image: {error}", file=sys.stderr)
        return 1
    print(f"{path} {path.stat().st_size / 1e6:.1f} MB, {image}")
    return 0


def builder() -> str:
    """Return the tool that builds.

    Raises:
        BuildError: there is none.
    """
    for tool in ("buildah", "podman"):
        if shutil.which(tool):
            return tool
    # The client alone builds nothing.
    if (
        shutil.which("docker")
        and not subprocess.run(["docker", "info"], capture_output=True, check=False).returncode
    ):
        return "docker"
    raise BuildError("neither buildah nor podman is installed, and no docker daemon answers.")


def _place() -> Path:
    """Return where there is room, which RAM for temporary files may not have."""
    place = ROOT / "build"
    place.mkdir(exist_ok=True)
    return place


def _file_name(package: Package) -> str:
    return f"edged_{package.version}_{package.architecture}.image.tar.gz"


def _fill(package: Package, wheels: list[Path], edgetpu: Path | None) -> None:
    """Lay out what is copied into the image."""
    package.tree.mkdir()
    package.environment(wheels)
    config = package.tree / "etc/edged/edged.toml"
    config.parent.mkdir(parents=True)
    shutil.copyfile(ROOT / "config/edged.toml", config)
    documents = package.tree / "usr/share/doc/edged"
    documents.mkdir(parents=True)
    papers.copyright_file(package.site, documents / "copyright")
    if edgetpu is not None:
        _take_in(edgetpu, package)
    package.same_modes_and_times()


def _take_in(deb: Path, package: Package) -> None:
    """Add the library of a package, and what may be done with it.

    Raises:
        BuildError: it is of another architecture, or has no such library.
    """
    command = ["dpkg-deb", "--field", str(deb), "Architecture"]
    for_what = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    if for_what != package.architecture:
        raise BuildError(f"{deb.name} is for {for_what}, the image for {package.architecture}.")
    with tempfile.TemporaryDirectory(prefix="edged-edgetpu-") as name:
        subprocess.run(["dpkg-deb", "--extract", str(deb), name], check=True)
        wanted = [
            *Path(name).glob("usr/lib/*/libedgetpu.so*"),
            *Path(name).glob("usr/share/doc/libedgetpu*/copyright"),
        ]
        if not any(path.suffix == ".1" for path in wanted):
            raise BuildError(f"{deb.name} has no libedgetpu.so.1.")
        for path in wanted:
            target = package.tree / path.relative_to(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)


def _imported(tool: str, tree: Path, package: Package, context: Path) -> str:
    """Make an image of a Debian and return its name."""
    folder = context / "base"
    folder.mkdir()
    archive = str(folder / "base.tar")
    subprocess.run(["tar", "-C", str(tree), "--one-file-system", "-cf", archive, "."], check=True)
    (folder / "Containerfile").write_text("FROM scratch\nADD base.tar /\n")
    image = f"{NAME}-base:{package.suite.name}-{package.architecture}"
    options = [f"--platform=linux/{package.architecture}", f"--tag={image}"]
    _run(tool, [*_BUILD[tool], *options, f"--file={folder / 'Containerfile'}", str(folder)])
    shutil.rmtree(folder)
    return image


def _build(tool: str, package: Package, context: Path, base: str, image: str) -> None:
    options = [f"--platform=linux/{package.architecture}", f"--tag={image}"]
    options += [f"--build-arg=BASE={base}", f"--build-arg=VERSION={package.version}"]
    _run(tool, [*_BUILD[tool], *options, f"--file={CONTAINERFILE}", str(context)])


def _saved(tool: str, image: str, path: Path) -> Path:
    """Write the image to a file, as `docker load` and `podman load` take it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = path.with_suffix("")
    plain.unlink(missing_ok=True)  # buildah would add to it
    _run(tool, [word.format(image=image, path=plain) for word in _SAVE[tool]])
    subprocess.run(["gzip", "--no-name", "--force", str(plain)], check=True)
    return path


def _run(tool: str, words: list[str]) -> None:
    done = subprocess.run(
        [tool, *words], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    if done.returncode:
        raise BuildError(f"{tool} {words[0]}: {(done.stderr or done.stdout).strip()[-2000:]}")


if __name__ == "__main__":
    sys.exit(main())
