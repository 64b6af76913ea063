"""A whole `posthoc` stage with every detector on embeddings of the size of CIFAR-10's: time and peak memory.

    python -m benchmarks.posthoc

60,000 ID train rows and 50,000 others (ID validation, ID test, three OOD sets), 512 features, 10 classes,
made by chance with the spectrum of a network. Runs the stage as `dvc repro` does, in a process of its own.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from sslood.core.files import save_tensors
from sslood.core.settings import read_section
from sslood.data.sets.roles.roles import record_role
from tests.kit.registries import DETECTORS

WIDTH, CLASSES = 512, 10
SPLITS = [  # set, role, split, images, shift of the features
    ("id", "id", "train", 60_000, 0.0),
    ("id", "id", "validation", 5_000, 0.0),
    ("id", "id", "test", 10_000, 0.0),
    ("near", "near", "test", 10_000, 0.3),
    ("far", "far", "test", 15_000, 0.6),
    ("noise", "far", "test", 10_000, 1.0),
]


def write(folder: Path) -> None:
    """Write FOLDER/made.safetensors, embeddings of a model that does not exist."""
    random, tensors = np.random.default_rng(0), {}
    scale = np.sqrt(1.0 / np.arange(1, WIDTH + 1, dtype=np.float32))
    centres = 2 * random.standard_normal((CLASSES, WIDTH), dtype=np.float32) * scale
    weight = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    bias = np.zeros(CLASSES, np.float32)
    for name, _, split, count, shift in SPLITS:
        labels = np.arange(count) % CLASSES
        features = random.standard_normal((count, WIDTH), dtype=np.float32) * scale + shift * scale
        features = np.maximum((1 - min(shift, 1.0)) * centres[labels] + features, 0)  # as after a ReLU
        tensors |= {f"{name}.{split}.features": features, f"{name}.{split}.labels": labels}
        tensors[f"{name}.{split}.logits"] = features @ weight.T + bias
    tensors |= {"head.weight": weight, "head.bias": bias}
    sets = {name: {"splits": {}, **record_role(role)} for name, role, *_ in SPLITS}
    about = {"model": "made", "seed": 0, "id": "id", "sets": sets, "model_metadata": {}}
    about["classes"] = [str(number) for number in range(CLASSES)]
    save_tensors(folder / "made.safetensors", tensors, kind="embeddings", metadata=about)


def options(params: str) -> list[str]:
    """Return the options of the stage's section in the params, with defaults for auto: no search."""
    found = []
    for key, value in read_section(f"{params}:posthoc").items():
        if isinstance(value, dict):
            default = DETECTORS[key].Settings()
            for name, item in value.items():
                found += [f"--{key}.{name}", str(getattr(default, name) if item == "auto" else item)]
        else:
            values = value if isinstance(value, list) else [value]
            found += [part for item in values for part in (f"--{key}", str(item))]
    return found


def run() -> dict[str, object]:
    """Return the seconds, the peak memory in MB and the detectors of one run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder)
        command = [
            sys.executable,
            "-m",
            "stages.posthoc",
            "--embeddings",
            name,
            "--models",
            "made",
            "--seed",
            "0",
        ]
        outs = ["--out_results", f"{name}/r.json", "--out_scores", f"{name}/s.safetensors"]
        begin = time.perf_counter()
        subprocess.run([*command, *options("params.yaml"), *outs], check=True)
        took = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    detectors = len(read_section("params.yaml:posthoc")["detectors"])
    return {"name": "posthoc", "seconds": took, "peak_mb": peak, "detectors": detectors}


def main() -> None:
    row = run()
    print(f"posthoc, {row['detectors']} detectors: {row['seconds']:.0f} s, peak {row['peak_mb']:.0f} MB")


if __name__ == "__main__":
    main()
