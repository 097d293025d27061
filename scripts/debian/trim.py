"""What wheels bring that no device uses."""

from __future__ import annotations

import shutil
from pathlib import Path

# In any wheel: tests, and what a compiler or a type checker reads.
_DIRECTORIES = {"tests", "test", "__pycache__"}
_SUFFIXES = {".a", ".c", ".cpp", ".h", ".hpp", ".lib", ".pxd", ".pyi", ".pyx"}

# Below site-packages; a pattern that finds nothing is no mistake, wheels differ by architecture.
_PATHS = (
    # Acceleration on desktop GPUs, compilers for other vendors' chips, benchmarks.
    "ai_edge_litert/libLiteRtWebGpuAccelerator.so",
    "ai_edge_litert/aot",
    "ai_edge_litert/tools",
    "ai_edge_litert/vendors",
    # Cascades of faces and number plates.
    "cv2/data/*.xml",
    # Licences stand in the wheel's .dist-info a second time.
    "cv2/LICENSE*",
    # For building extensions.
    "numpy/core/include",
    "numpy/core/lib",
    "numpy/_core/include",
    "numpy/_core/lib",
    "numpy/distutils",
    "numpy/f2py",
    "numpy/random/_examples",
    "numpy/random/lib",
    "numpy/**/setup.py",
    # Helpers of the wheels' own tests.
    "securesystemslib/_vendor/**/.gitignore",
    "securesystemslib/_vendor/*.sh",
    # For installers.
    "*.dist-info/entry_points.txt",
    "*.dist-info/sboms",
    "*.dist-info/top_level.txt",
    "*.dist-info/WHEEL",
)


def trim(site: Path) -> int:
    """Remove it, and return the bytes saved."""
    before = _size(site)
    for path in sorted(site.rglob("*"), reverse=True):
        if path.is_dir() and path.name in _DIRECTORIES:
            shutil.rmtree(path)
        elif path.is_file() and path.suffix in _SUFFIXES:
            path.unlink()
    for pattern in _PATHS:
        for path in sorted(site.glob(pattern)):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
    for path in sorted(site.rglob("*"), reverse=True):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()
    return before - _size(site)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
