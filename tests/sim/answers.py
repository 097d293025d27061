"""What models answer to images, prepared as edged does it. Run by the Python of a package.

Usage: python3 -sP answers.py JOB.json OUT.npz [GIVEN.npz]

JOB names `models` (name: file), `images` (files) and `runtimes`. OUT gets for each model and image
the tensor that went in (`input/MODEL/IMAGE`), and for each runtime what came out of it
(`own/RUNTIME/MODEL/IMAGE`); with GIVEN, the OUT of another machine, also what comes out of its
tensors (`given/RUNTIME/MODEL/IMAGE`).
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
from pathlib import Path

import numpy as np

from edged.camera.imagefile import decode
from edged.config import ModelConfig
from edged.inference.loading import load_servable
from edged.inference.preprocess import Preprocessor


def main(job_file: str, out: str, given_file: str | None = None) -> None:
    job = json.loads(Path(job_file).read_text())
    given = dict(np.load(given_file)) if given_file else {}
    arrays: dict[str, np.ndarray] = {}
    medians_ms: dict[str, float] = {}
    for runtime in job["runtimes"]:
        for name, file in job["models"].items():
            servable = load_servable(ModelConfig(name="m", factory=file, runtime=runtime))
            preprocessor = Preprocessor(servable.input)
            slots, took_ms = preprocessor.slots(), []
            for image in map(Path, job["images"]):
                tensor = next(slots)
                preprocessor.write(decode(image.read_bytes()), "bgr", tensor)
                arrays[f"input/{name}/{image.name}"] = tensor
                outputs = servable.infer(tensor)
                took_ms.append(1e3 * outputs.invoke_s)
                arrays[f"own/{runtime}/{name}/{image.name}"] = outputs.arrays[0]
                if given:
                    its = given[f"input/{name}/{image.name}"]
                    answer = servable.infer(its).arrays[0]
                    arrays[f"given/{runtime}/{name}/{image.name}"] = answer
            servable.close()
            medians_ms[f"{runtime}/{name}"] = statistics.median(took_ms)
    np.savez(out, **arrays)
    print(json.dumps({"machine": platform.machine(), "invoke_ms": medians_ms}))


if __name__ == "__main__":
    main(*sys.argv[1:])
