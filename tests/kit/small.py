"""Small real inputs for tests of stages: scikit-learn's digits at 8x8 as set files, an untrained encoder."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sslood.core.files import load_tensors, save_tensors
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.files import save_model

ARCH = "resnet-8-4"


def digit_images() -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 [1797, 1, 8, 8] and labels int64 [1797]."""
    digits = load_digits()
    return np.minimum(digits.images * 16, 255).astype(np.uint8)[:, None], digits.target.astype(np.int64)


def set_metadata(name: str, classes: list[str], splits: dict[str, int], **more) -> dict:
    return {
        "name": name,
        "size": 8,
        "channels": 1,
        "classes": classes,
        "splits": splits,
        "resize": "none",
        **more,
    }


def write_sets(folder: Path) -> dict[str, Path]:
    """Write digits (0 to 7; 600, 100 and 200 images), heldout (8, 9), noise (no labels), corruptions."""
    images, labels = digit_images()
    known = labels < 8
    own, own_labels = images[known], labels[known]
    cuts = {"train": slice(0, 600), "validation": slice(600, 700), "test": slice(700, 900)}
    tensors = {}
    for split, rows in cuts.items():
        tensors |= {f"{split}.images": own[rows], f"{split}.labels": own_labels[rows]}
    train = tensors["train.images"] / 255
    statistics = {"mean": [float(train.mean())], "std": [float(train.std())]}
    paths = {name: folder / f"{name}.safetensors" for name in ("digits", "heldout", "noise", "corruptions")}
    names = [str(label) for label in range(8)]
    save_tensors(
        paths["digits"], tensors, kind="set", metadata=set_metadata("digits", names, {}, **statistics)
    )
    test = {"test.images": images[~known], "test.labels": labels[~known] - 8}
    save_tensors(paths["heldout"], test, kind="set", metadata=set_metadata("heldout", ["8", "9"], {}))
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (50, 1, 8, 8), np.uint8)
    unknown = np.full(50, -1)
    noise_set = {"test.images": noise, "test.labels": unknown}
    save_tensors(paths["noise"], noise_set, kind="set", metadata=set_metadata("noise", [], {}))
    upside = {"train.images": own[:150, :, ::-1], "train.labels": np.full(150, -1)}
    upside |= {"validation.images": own[600:700, :, ::-1], "validation.labels": np.full(100, -1)}
    save_tensors(paths["corruptions"], upside, kind="set", metadata=set_metadata("corruptions", [], {}))
    return paths


def steal(folder: Path, name: str, count: int) -> None:
    """Put the first test images of a set among the tuning images of corruptions, from place 5 on."""
    path = folder / "corruptions.safetensors"
    tensors, metadata = load_tensors(path, kind="set")
    tensors = {key: np.array(array) for key, array in tensors.items()}
    stolen = load_tensors(folder / f"{name}.safetensors")[0]["test.images"][:count]
    tensors["validation.images"][5 : 5 + count] = stolen
    save_tensors(path, tensors, kind="set", metadata=metadata)


def model_card(**changes) -> ModelCard:
    """Return the card of an untrained encoder for the digits of `write_sets`."""
    fields = {
        "name": "scratch",
        "arch": ARCH,
        "objective": "scratch",
        "seed": 0,
        "size": 8,
        "channels": 1,
        "mean": [0.3],
        "std": [0.37],
        "resize": "none",
        "id": "digits",
        "classes": [str(label) for label in range(8)],
        "head_classes": None,
        "feature_dim": 16,
        "projector": None,
        "settings": {},
        **changes,
    }
    return ModelCard(**fields)


def write_encoder(path: Path, **changes) -> Path:
    """Write an untrained encoder; `changes` go into its card."""
    card = model_card(**changes)
    with seeded(0):
        backbone = build_backbone(card.arch, channels=card.channels)
    save_model(path, {"backbone": backbone}, card)
    return path


def write_params(path: Path) -> Path:
    path.write_text(
        "sets:\n  digits: {role: id}\n  heldout: {role: near}\n"
        "  noise: {role: far}\n  corruptions: {role: tuning}\n"
        "augment:\n  classifier: {pad: 1}\n  shots: {pad: 1}\n"
        "backbones:\n  resnet: {depth: 8, width: 4}\n  wideresnet: {depth: 10, width: 1}\n"
    )
    return path


def options(**values) -> list[str]:
    """Return command-line options from names and values; lists repeat, bools become --x or --no-x.

    None makes a flag, --x.
    """
    found = []
    for name, value in values.items():
        name = name.replace("__", ".")
        if value is None:
            found.append(f"--{name}")
        elif isinstance(value, bool):
            found.append(f"--{name}" if value else f"--no-{name}")
        else:
            for item in value if isinstance(value, list) else [value]:
                found += [f"--{name}", str(item)]
    return found


def setting_flags(settings, prefix: str = "") -> list[str]:
    """Return the command-line options of a Settings dataclass, as DVC passes them."""
    values = {f"{prefix}.{key}" if prefix else key: value for key, value in asdict(settings).items()}
    return options(
        **{key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    )


def call(command, **values) -> int:
    """Run a stage's command in this process; return its exit status."""
    with pytest.raises(SystemExit) as ended:
        command.main(options(**values), prog_name="stage")
    return ended.value.code
