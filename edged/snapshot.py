"""One frame as the model sees it, and what the model says about it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from edged.camera.source import open_camera
from edged.config import CameraConfig, Config
from edged.errors import StoreError, ValidationError
from edged.inference.preprocess import Preprocessor
from edged.inference.servable import Servable
from edged.mqtt.messages import said
from edged.prediction import Result, seen
from edged.running import load_factory, load_running

# A live camera's first pictures are dark or tinted until exposure and white balance settle.
_SETTLE_S = 1.0
_LIVE = ("picamera", "v4l2")


@dataclass(frozen=True)
class Snapshot:
    """A saved frame.

    Attributes:
        path: the file written.
        source: what the picture came from.
        model: which model looked at it, and on what.
        camera: width and height of the camera's image, pixels.
        model_input: width and height of what was saved, pixels.
        result: what the model says.
    """

    path: Path
    source: str
    model: str
    camera: tuple[int, int]
    model_input: tuple[int, int]
    result: Result

    def to_dict(self) -> dict[str, object]:
        """Return it for JSON; what the model says stands there as on the wire."""
        return {
            "file": str(self.path),
            "source": self.source,
            "model": self.model,
            "camera": list(self.camera),
            "model_input": list(self.model_input),
            **said(self.result),
        }

    def describe(self) -> str:
        """Return it for people."""
        saved = (
            f"{self.path}: {self.model_input[0]} x {self.model_input[1]} as the model sees it,"
            f" from a camera image of {self.camera[0]} x {self.camera[1]}\n"
            f"  {self.source}; {self.model}"
        )
        found = [f"  {score:.3f}  {label}" for label, score in seen(self.result)]
        return "\n".join([saved, *(found or ["  nothing found"])])


def take_snapshot(
    camera_config: CameraConfig,
    config: Config,
    output: Path,
    *,
    service_runs: bool,
    factory: bool = False,
) -> Snapshot:
    """Save one frame as the model sees it.

    Args:
        camera_config: which camera; it must not be in use.
        config: with its model.
        output: .png or .jpg.
        service_runs: whether a daemon may be using the Edge TPU.
        factory: whether the configured file is meant, whatever runs.

    Raises:
        CameraError: no frame.
        ValidationError, AcceleratorError: no model.
        StoreError: `snapshot_not_written`.
    """
    if output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise StoreError(
            "snapshot_not_written",
            f"cannot write {output}.",
            advice="The name must end in .png or .jpg.",
        )
    name = camera_config.model
    servable, unknown = _load(config, name, service_runs=service_runs, factory=factory)
    camera = open_camera(camera_config)
    try:
        picture = camera.read(camera_config.stall_s)
        if camera_config.source.partition(":")[0] in _LIVE:
            settled_s = time.monotonic() + _SETTLE_S
            while time.monotonic() < settled_s:
                picture = camera.read(camera_config.stall_s)
        preprocessor = Preprocessor(servable.input, camera_config.rotate)
        tensor = next(preprocessor.slots())
        preprocessor.write(picture.image, picture.color, tensor)
        height, width = picture.image.shape[:2]
        view = preprocessor.view(picture.image, picture.color)
        result = servable.decode(servable.infer(tensor), preprocessor.geometry(height, width))
    finally:
        camera.close()
        servable.close()
    bgr = view[:, :, ::-1] if servable.input.color == "rgb" else view
    try:
        written = cv2.imwrite(str(output), np.ascontiguousarray(bgr))
    except cv2.error:
        written = False
    if not written:
        raise StoreError(
            "snapshot_not_written",
            f"cannot write {output}.",
            advice="Its directory must be there and writable.",
        )
    model = f"{name} {servable.id.version} on {servable.accelerator}"
    if unknown:
        model += f" (the factory model; which version runs: {unknown})"
    sizes = ((width, height), (view.shape[1], view.shape[0]))
    return Snapshot(output, camera.description, model, *sizes, result)


def _load(config: Config, name: str, *, service_runs: bool, factory: bool) -> tuple[Servable, str]:
    """Load the model for the CPU if it can run there, and say why it may be another than runs.

    A second process that opens an Edge TPU ends the one that has it.
    """

    def load(config: Config) -> tuple[Servable, str]:
        return (load_factory(config, name), "") if factory else load_running(config, name)

    on_cpu = tuple(replace(model, accelerator="cpu") for model in config.model)
    try:
        return load(replace(config, model=on_cpu))
    except ValidationError as error:
        if error.reason != "model_needs_edgetpu":
            raise
        if service_runs:
            raise StoreError(
                "service_runs",
                "the service has the Edge TPU, and there is no file of this model for the CPU.",
                advice="Stop the service first.",
            ) from error
    return load(config)
