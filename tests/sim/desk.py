"""The operator's desk: a repository made by our own tool, served over HTTP, and its packages."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from edged.models.golden import write_golden
from edged.models.manifest import parse_manifest
from edged.models.package import write_package
from edged.operator import serve
from edged.operator.repo import Repo
from sim import golden, models, packages

COLOURS = tuple(models.COLOURS)
_PIECE_BYTES = 16 * 1024


@dataclass(frozen=True)
class Request:
    """What a device asked for: a path, and its header `Range`, "" without one."""

    path: str
    range: str


class _Handler(serve._Handler):
    """The operator's server, that writes down what is asked for, behind a line of some speed."""

    def __init__(self, desk: Desk, *args: Any, **settings: Any) -> None:
        self._desk = desk
        super().__init__(*args, **settings)

    def send_head(self) -> IO[bytes] | None:
        self._desk.requests.append(Request(self.path, self.headers.get("Range", "")))
        return super().send_head()

    def copyfile(self, source: Any, outputfile: Any) -> None:
        while piece := source.read(_PIECE_BYTES):
            outputfile.write(piece)
            if self._desk.bytes_per_s is not None:
                time.sleep(len(piece) / self._desk.bytes_per_s)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Desk:
    """A repository at the operator's, and a web server that devices reach.

    Args:
        folder: for everything.

    Attributes:
        requests: all so far.
        bytes_per_s: how fast files go out; None for at once.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.repo = Repo(folder / "repo")
        self.repo.init()
        self.root = folder / "root.json"
        self.root.write_bytes(self.repo.published.root())
        self.requests: list[Request] = []
        self.bytes_per_s: float | None = None
        self._server = serve.Server(folder / "repo", "127.0.0.1", 0)
        handler = partial(_Handler, self, directory=str(folder / "repo"))
        self._server.RequestHandlerClass = handler  # type: ignore[assignment]
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def update(self) -> str:
        """The `[update]` table of a device, with a short trial."""
        url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return (
            f'[update]\nmetadata_url = "{url}/metadata"\ntargets_url = "{url}/targets"\n'
            f'root = "{self.root}"\ntrial_frames = 30\ntrial_seconds = 0.5\n'
        )

    def pack(
        self,
        version: str,
        model: bytes | None = None,
        *,
        name: str = "m",
        labels: tuple[str, ...] = COLOURS,
        expected: np.ndarray | None = None,
        ballast: bytes = b"",
        file: str = "model.tflite",
        dtype: str = "float32",
        **changes: Any,
    ) -> Path:
        """Write a package of a colour classifier, which has its own answers as its golden set.

        Args:
            version: of the package.
            model: its file; None for a classifier that is sound.
            name: of the model.
            labels: in its order.
            expected: answers of the golden set instead of its own.
            ballast: makes the package as large as it is long, where it cannot be compressed.
            file: the model's name in it.
            dtype: of its input.
            changes: of the manifest.
        """
        path = self.folder / f"{name}-{version}.zip"
        bare = models.write(self.folder / "model.tflite", model or models.classifier("float32"))
        inputs = golden.colour_inputs(dtype=dtype)
        if expected is None:
            servable = golden.load(bare)
            made = golden.golden_of(servable, inputs)
            servable.close()
        else:
            made = golden.Golden((inputs,), (expected,))
        files = {
            file: bare.read_bytes(),
            "golden.npz": write_golden(made),
            "labels.txt": "".join(f"{label}\n" for label in labels).encode(),
        }
        if ballast:
            files["LICENSE"] = ballast
        facts = packages.facts(files) | {
            "name": name,
            "version": version,
            "input": {"shape": [1, 32, 32, 3], "dtype": dtype},
            "labels": len(labels),
            "golden": {"samples": 4, "made_with": "litert 2.3.0"},
        }
        with path.open("wb") as file:
            write_package(file, parse_manifest(json.dumps(facts | changes).encode()), files)
        return path

    def publish(self, version: str, model: bytes | None = None, **settings: Any) -> Path:
        """Pack and sign in."""
        path = self.pack(version, model, **settings)
        self.repo.publish(path, settings.get("name", "m"), version)
        return path

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)
