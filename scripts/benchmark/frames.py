"""The figures of the frame path: slices of the daemon and of what stands beside it take turns."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from statistics import median

import cv2
import numpy as np

from benchmark.assembled import Assembled, configuration, load
from benchmark.beside import MediaPipe, alone, loop, naive
from benchmark.figures import Figure, spread
from benchmark.world import Data
from edged.frame import FrameStamp
from edged.inference.preprocess import Preprocessor
from edged.inference.servable import Servable
from edged.mqtt.messages import encode_prediction
from edged.prediction import Prediction

CAMERAS = 4
Slices = dict[str, list[dict[str, float]]]


@dataclass(frozen=True)
class Options:
    """How many slices, and how long each is in seconds."""

    slices: int
    seconds: float


class FramePath:
    """The figures of one broker and one set of data; what several need is measured once."""

    def __init__(self, data: Data, port: int, options: Options) -> None:
        self._data, self._port, self._options = data, port, options

    def duty(self) -> list[Figure]:
        """Time in invoke over wall time, one free-running camera."""
        goals = [
            (self._data.v2_name, self._v2, 0.97, 0.98),
            ("2.6 ms stand-in for an accelerator", self._stand_in, 0.96, 0.97),
            (self._data.v1_name, self._v1, 0.90, 0.92),
        ]
        return [
            Figure(
                f"duty, {name}",
                of(slices, "edged", "duty"),
                must=must,
                aim=aim,
                most=False,
                digits=3,
                beside=_rates(slices),
                details=slices,
            )
            for name, slices, must, aim in goals
        ]

    def cpu(self) -> list[Figure]:
        """CPU of the process per frame over that of the model alone."""
        return [
            Figure(
                f"CPU per frame over invoke alone, {name}",
                ratios(slices, "edged", "cpu_ms"),
                must=must,
                aim=aim,
                beside=", ".join(
                    f"{way} {spread(ratios(slices, way, 'cpu_ms'))}"
                    for way in ("naive", "MediaPipe")
                    if way in slices
                ),
            )
            for name, slices, must, aim in (
                (self._data.v2_name, self._v2, 1.15, 1.10),
                (self._data.v1_name, self._v1, None, None),
            )
        ]

    def latency(self) -> list[Figure]:
        """From capture to publish at a camera slower than the model, less the invoke alone."""
        invoke_ms = median(of(self._v2, "invoke alone", "invoke_ms"))
        return [
            Figure(
                f"capture to publish p95 less invoke, {self._data.v2_name}",
                tuple(late - invoke_ms for late in of(self._v2, "slow camera", "latency_p95_ms")),
                "ms",
                must=8.0,
                aim=4.0,
                digits=1,
                beside=f"invoke {invoke_ms:.2f} ms",
            )
        ]

    def cameras(self) -> list[Figure]:
        """Frames a second of four cameras on one model over those of one that runs freely."""
        name = f"{CAMERAS} cameras"
        return [
            Figure(
                f"{name} on {self._data.v2_name}: sum of rates over one camera's",
                tuple(
                    four / one
                    for four, one in zip(
                        of(self._v2, name, "fps"), of(self._v2, "edged", "fps"), strict=True
                    )
                ),
                must=0.97,
                aim=0.99,
                most=False,
                digits=3,
                beside=f"duty {spread(of(self._v2, name, 'duty'), 3)}",
            )
        ]

    def message(self) -> list[Figure]:
        """Bytes of a prediction with five classes, for each of the photographs."""
        config = configuration(self._data.v2, self._port)
        servable = load(config)
        images = [cv2.imread(str(path)) for path in self._data.photographs] or [self._data.image]
        sizes = tuple(float(len(_message(servable, image))) for image in images)
        servable.close()
        return [
            Figure(
                f"top-5 message, {len(sizes)} image(s)",
                sizes,
                "bytes",
                must=400,
                aim=380,
                digits=0,
            )
        ]

    @cached_property
    def _v2(self) -> Slices:
        config = configuration(self._data.v2, self._port)
        servable = load(config)
        bare = alone(servable)
        rate = min(15.0, 400 / (1000 * median(bare() for _ in range(20))))
        servable.close()
        slower = configuration(self._data.v2, self._port, device="slow", fps=rate)
        four = configuration(self._data.v2, self._port, device="four", cameras=CAMERAS)
        others = {"slow camera": slower, f"{CAMERAS} cameras": four}
        return self._take_turns(self._data.v2, others=others, peers=self._data.real)

    @cached_property
    def _stand_in(self) -> Slices:
        return self._take_turns(self._data.v2, stand_in=True)

    @cached_property
    def _v1(self) -> Slices:
        return self._take_turns(self._data.v1, peers=self._data.real)

    def _take_turns(
        self,
        path: str,
        *,
        stand_in: bool = False,
        others: dict | None = None,
        peers: bool = False,
    ) -> Slices:
        config = configuration(path, self._port)
        configs = {"edged": config, **(others or {})}
        running = {
            way: Assembled(one, self._data.image, load(one, stand_in=stand_in))
            for way, one in configs.items()
        }
        beside = [load(config, stand_in=stand_in) for _ in range(2)]
        session = running["edged"].session
        ways: dict[str, Callable[[float], dict[str, float]]] = {
            "invoke alone": lambda seconds: loop(seconds, alone(beside[0])),
            **{way: one.slice for way, one in running.items()},
            "naive": lambda seconds: loop(seconds, naive(beside[1], self._data.image, session)),
        }
        other = MediaPipe(path, self._data.image) if peers and MediaPipe.installed else None
        if other is not None:
            ways["MediaPipe"] = lambda seconds: loop(seconds, other.handle)
        slices: Slices = {way: [] for way in ways}
        for _, (way, run) in itertools.product(range(self._options.slices), ways.items()):
            slices[way].append(run(self._options.seconds))
        for one in running.values():
            one.stop()
        for servable in beside:
            servable.close()
        if other is not None:
            other.close()
        return slices


def of(slices: Slices, way: str, key: str) -> tuple[float, ...]:
    """One number of each slice."""
    return tuple(one[key] for one in slices[way])


def ratios(slices: Slices, way: str, key: str) -> tuple[float, ...]:
    """One number of each slice over that of the model alone just before."""
    pairs = zip(of(slices, way, key), of(slices, "invoke alone", key), strict=True)
    return tuple(one / bare for one, bare in pairs)


def _rates(slices: Slices) -> str:
    said = [f"{median(of(slices, 'edged', 'fps')):.0f} frames/s"]
    said.append(f"invoke alone {median(of(slices, 'invoke alone', 'fps')):.0f}/s")
    naively = f"{median(of(slices, 'naive', 'fps')):.0f}/s"
    said.append(f"naive {naively}, duty {spread(of(slices, 'naive', 'duty'))}")
    if "MediaPipe" in slices:
        said.append(f"MediaPipe {median(of(slices, 'MediaPipe', 'fps')):.0f}/s")
    return "; ".join(said)


def _message(servable: Servable, image: np.ndarray) -> bytes:
    preprocessor = Preprocessor(servable.input)
    tensor = next(preprocessor.slots())
    preprocessor.write(image, "bgr", tensor)
    height, width = image.shape[:2]
    outputs = servable.infer(tensor)
    result = servable.decode(outputs, preprocessor.geometry(height, width))
    stamp = FrameStamp("front", 123_456, 1763683200.123, 0.0, height, width)
    prediction = Prediction(stamp, servable.id, 1000 * outputs.invoke_s, result)
    return encode_prediction(prediction, boot="4f1c09ab", seq=123_456)
