"""Detector and model files that lie, models that do not compute, and detectors that catch nothing."""

import copy
import hashlib
import importlib
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image

from sslood.commands import deploy, score
from sslood.core.files import load_tensors, save_tensors
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import save_model
from sslood.nets.networks.heads import build_head
from stages import adopt, embed
from tests.kit.small import model_card, options, write_params, write_sets
from tests.trials.kit import Outcome, Trial, Verdict, call, refused, taken

TITLE = "lying detector and model files, useless detectors (deploy, score, adopt)"
KINDS = {  # name of the file -> options of deploy
    "knn": {"detector": "knn", "set": "knn.k=5"},
    "gmm": {"detector": "gmm", "set": ["gmm.ridge=0.001", "gmm.beta=1"]},
    "msp": {"detector": "msp"},
    "gram": {"detector": "gram", "set": "gram.powers=1"},
    "two": {"detector": ["knn", "energy"], "set": ["knn.k=5", "energy.temperature=1.0"], "combine": "simes"},
}
Arrays = dict[str, np.ndarray]
Lie = Callable[[Arrays, dict[str, Any]], Any]
NAN, INF = float("nan"), float("inf")


def trials(folder: Path) -> Iterator[Trial]:
    """Yield every trial; `folder` is empty and gets what they read."""
    write_files(folder)
    for name in KINDS:
        yield Trial(f"{name} as it was written", partial(_honest, folder, name))
        arrays, content = read_file(folder, name)
        for what, lie in [*array_lies(arrays), *(word_lies() if name in ("knn", "two") else ())]:
            yield Trial(f"{name}: {what}", partial(_lying, folder, name, lie, seal=True))
    for number in range(30):
        yield Trial(f"knn: a flipped bit, {number}", partial(_flipped, folder, number))
    for share in (0.0, 0.1, 0.5, 0.99, 0.9999):
        yield Trial(f"knn: the first {share:.2%}", partial(_cut, folder, share))
    for what, unsealed in _unsealed().items():
        yield Trial(f"knn: {what}", partial(_lying, folder, "knn", unsealed, seal=False))
    for what, change in _adopted().items():
        yield Trial(f"adopt: {what}", partial(_adopt, folder, **change))
    for html in (False, True):
        yield Trial(f"a useless detector, {'gallery' if html else 'score'}", partial(_useless, folder, html))
    yield Trial("a useless detector, deploy", partial(_useless_deployed, folder))
    for count in (1, 10, 30, 60):
        yield Trial(f"a gallery of {count}", partial(_gallery, folder, count))
    for rate in ("nan", "inf", "-inf", "0", "1", "2", "-0.1"):
        yield Trial(f"--alpha {rate}", partial(_rate, folder, "alpha", rate))
        yield Trial(f"--fdr {rate}", partial(_rate, folder, "fdr", rate))
    for place in ("file/x", "", "/proc/none/x", "pipe", "y" * 250):
        for option in ("out", "html"):
            yield Trial(f"--{option} at {place[:20]!r}", partial(_misplaced, folder, option, place))


def write_files(folder: Path) -> None:
    """Write a classifier, its embeddings, pictures and a detector file of every kind."""
    write_sets(folder)
    params = write_params(folder / "params.yaml")
    with seeded(0):
        modules = {"backbone": build_backbone("resnet-8-4", channels=1), "head": build_head(16, 8)}
    save_model(folder / "net-0.safetensors", modules, model_card(name="net", head_classes=list(range(8))))
    torch.save(modules["backbone"].state_dict(), folder / "encoder.pth")
    plan = {
        "model": folder / "net-0.safetensors", "sets": f"{params}:sets", "sets_dir": folder, "id": "digits",
        "recipe": f"{params}:augment.shots", "batch_size": 64, "precision": "float32", "shots": 2,
        "copies": 2, "seed": 0, "out": folder / "e" / "net.safetensors",
    }  # fmt: skip
    _made(call(embed.main, *options(**plan)))
    for name, values in KINDS.items():
        _made(_deployed(folder, folder / f"{name}.safetensors", **values))
    (folder / "file").write_text("")
    os.mkfifo(folder / "pipe")
    for name in ("digits", "noise"):
        (folder / name).mkdir()
        for place, image in enumerate(load_tensors(folder / f"{name}.safetensors")[0]["test.images"][:40]):
            Image.fromarray(image[0]).save(folder / name / f"{place:02}.png")


def _made(outcome: Outcome) -> None:
    if outcome.status:
        raise RuntimeError(outcome.output)


def _deployed(folder: Path, out: Path, **values: Any) -> Outcome:
    places = {"model": folder / "net-0.safetensors", "embeddings": folder / "e" / "net.safetensors"}
    places |= {"params": folder / "params.yaml", "sets_dir": folder, "results": folder, "out": out}
    return call(deploy.main, *options(**places, alpha=0.05, **values))


def _scored(folder: Path, detector: Path, pictures: str = "digits/00.png", **values: Any) -> Outcome:
    places: dict[str, Any] = {"detector": detector, "images": folder / pictures, "out": folder / "s.csv"}
    return call(score.main, *options(**places | values))


def read_file(folder: Path, name: str) -> tuple[Arrays, dict[str, Any]]:
    arrays, about = load_tensors(folder / f"{name}.safetensors")
    content = {key: value for key, value in about.items() if key not in ("kind", "format")}
    return {key: np.array(array) for key, array in arrays.items()}, content


def _honest(folder: Path, name: str) -> Verdict:
    return taken(_scored(folder, folder / f"{name}.safetensors"))


def _lying(folder: Path, name: str, lie: Lie, *, seal: bool) -> Verdict:
    arrays, content = read_file(folder, name)
    content = copy.deepcopy(content)
    lie(arrays, content)
    if seal and "checksum" in content:  # as someone who knows how the file is made would
        packed = importlib.import_module("sslood.deploy.packed")
        content["checksum"] = packed.checksum(arrays, content)
    save_tensors(folder / "lie.safetensors", arrays, kind="detector", metadata=content)
    return refused(_scored(folder, folder / "lie.safetensors"), "lie.safetensors")


def _flipped(folder: Path, number: int) -> Verdict:
    content = bytearray((folder / "knn.safetensors").read_bytes())
    place = random.Random(number).randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    (folder / "lie.safetensors").write_bytes(content)
    return refused(_scored(folder, folder / "lie.safetensors"), "lie.safetensors")


def _cut(folder: Path, share: float) -> Verdict:
    content = (folder / "knn.safetensors").read_bytes()
    (folder / "lie.safetensors").write_bytes(content[: int(share * len(content))])
    return refused(_scored(folder, folder / "lie.safetensors"), "lie.safetensors")


def _change(part: str, key: str, value: Any = None, *, drop: bool = False) -> Lie:
    """Return the lie that sets, or drops, a key of a part of the content ("": of the content itself)."""

    def lie(arrays: Arrays, content: dict[str, Any]) -> None:
        place = content["detectors"][0] if part == "detector" else content[part] if part else content
        if drop:
            place.pop(key)
        else:
            place[key] = value

    return lie


def word_lies() -> Iterator[tuple[str, Lie]]:
    """Yield (what, the change) of lies about threshold, model, detectors and the rest of the content."""
    parts = {"threshold": _THRESHOLD, "model_metadata": _MODEL, "detector": _DETECTOR, "": _CONTENT}
    for part, keys in parts.items():
        for key, values in keys.items():
            for value in values:
                yield f"{part}.{key} = {str(value)[:30]}", _change(part, key, value)
            if part != "detector":
                yield f"{part}.{key} is missing", _change(part, key, drop=True)
    yield "a detector twice", lambda arrays, content: content["detectors"].append(content["detectors"][0])


def array_lies(arrays: Arrays) -> Iterator[tuple[str, Lie]]:
    """Yield (what, the change) of lies about the arrays of a file."""
    own = [name for name in arrays if not name.startswith("model.")]
    state = [name for name in own if name.startswith("detector.")]
    own = [name for name in own if name not in state[3:]]  # of twenty layers, gram keeps arrays of one kind
    for name in [*own, "model.backbone.conv1.weight", "model.head.bias"]:
        changes = _broken(arrays[name]) | ({} if name.startswith(("model.", "detector.")) else _DISORDERED)
        for what, change in changes.items():
            yield f"{name} is {what}", partial(_put, name, change)
        yield f"{name} is missing", lambda arrays, content, name=name: arrays.pop(name)
    yield "an array of no detector", partial(_put, "detector.odin.x", lambda array: np.zeros(2))
    yield "a weight too many", partial(_put, "model.more", lambda array: np.zeros(2, np.float32))


def _put(name: str, change: Callable[[Any], np.ndarray], arrays: Arrays, content: dict[str, Any]) -> None:
    arrays[name] = change(arrays.get(name))


def _broken(array: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return changes of one array that must not pass."""

    def put(value: float, array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flat[array.size // 2] = value
        return array

    other = np.float64 if array.dtype == np.float32 else np.float32
    changes = {f"partly {value}": partial(put, value) for value in (NAN, INF, -INF)}
    changes |= {
        np.dtype(dtype).name: lambda array, dtype=dtype: array.astype(dtype)
        for dtype in (np.float16, np.int32, np.uint8, other)
    }
    return changes | {
        "halved": lambda array: array[: len(array) // 2],
        "empty": lambda array: array[:0],
        "flat with one more": lambda array: np.append(array.ravel(), array.flat[-1]),
        "in one dimension more": lambda array: array[None],
    }


_DISORDERED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "descending": lambda array: array[::-1].copy(),
    "shuffled": lambda array: np.random.default_rng(0).permutation(array),
}
_THRESHOLD = {
    "value": (NAN, INF, -INF, 1e9, -1e9, "x", None, True, [0.5]),
    "alpha": (NAN, 0.0, 1.0, -0.1, 2.0, INF, 0.5, None),
    "images": (0, -1, 10**6, 99.5, NAN, "99"),
    "low": (NAN, -1.0, INF, 0.9),
    "high": (NAN, 2.0, -INF, 0.001),
    "confidence": (NAN, 0.0, 1.0, 2.0, 0.5),
}
_CONTENT = {
    key: (7, "x", [], {}) for key in ("detectors", "combination", "threshold", "version", "model_metadata")
}
_MODEL = {
    "mean": ([NAN], [INF], [], [0.1, 0.2], "0.3", None),
    "std": ([NAN], [INF], [0.0], [-0.37], [0.3, 0.3], None),
    "size": (0, -8, 9, 10**6, "8", 8.5, None),
    "channels": (0, 3, 10**6, "1", None),
    "classes": ([], ["0"], "01234567", None),
    "head_classes": ([], [0, 1], [0] * 8, list(range(1, 9)), [NAN] * 8, "01234567"),
    "feature_dim": (0, 15, -16, "16", None),
    "arch": ("resnet-8-5", "none", 3, None),
    "reference": ({}, {"features": [NAN] * 4}, {"features": [INF] * 4, "logits": [INF] * 4}, None),
}
_DETECTOR = {
    "name": ("none", "", 3, None, "residual", "dice"),
    "settings": ({"none": 1}, None, [], "x"),
    "widths": ({"features": 99, "logits": 99}, "x", 3),
}


def _unsealed() -> dict[str, Lie]:
    """Return changes that only a checksum can notice."""
    return {
        "two filters changed places": partial(
            _put, "model.backbone.conv1.weight", lambda array: array[[1, 0, *range(2, len(array))]]
        ),
        "a row of the bank is another": partial(
            _put, "detector.knn.bank", lambda array: array[[1, *range(1, len(array))]]
        ),
        "other classes": _change("model_metadata", "classes", list("abcdefgh")),
        "another resize": _change("model_metadata", "resize", "crop"),
        "other words": _change("", "calibrated_on", "a million images"),
        "another origin": _change("detector", "fitted_on", "everything"),
        "other neighbours": _change("detector", "settings", {"k": 1}),
        "it catches all": _change("", "catches", []),
    }


def _adopted() -> dict[str, dict[str, Any]]:
    """Return models from outside that do not compute: what -> change of entry, factor of the weights."""
    cases: dict[str, dict[str, Any]] = {}
    for floor in ("min_knn", "min_norm", "min_accuracy"):
        for key in ("mean", "std"):
            for value in (NAN, INF, -INF):
                cases[f"{key} {value}, {floor}"] = {"floor": floor, "values": {key: [value]}}
        for factor in (1e30, 1e36, NAN, INF):
            cases[f"weights x {factor}, {floor}"] = {"floor": floor, "factor": factor}
        for value in (NAN, INF, -1.0):
            cases[f"{floor} = {value}"] = {"floor": floor, "values": {floor: value}}
    return cases


def _adopt(folder: Path, floor: str, values: Any = None, factor: float = 1.0) -> Verdict:
    state = torch.load(folder / "encoder.pth", weights_only=True)
    state = {key: value * factor if value.ndim == 4 else value for key, value in state.items()}
    entry: dict[str, Any] = {
        "architecture": "resnet-8-4", "layout": "plain", "saw_validation": False, "size": 8, "channels": 1,
        "mean": [0.3], "std": [0.4], "classes": [], floor: 0.01, "weights": str(folder / "w.pth"),
    }  # fmt: skip
    if floor == "min_accuracy":
        state |= {"head.weight": torch.ones(8, 16), "head.bias": torch.zeros(8)}
        entry |= {"head": "head", "classes": [str(label) for label in range(8)]}
    torch.save(state, folder / "w.pth")
    entry |= {"sha256": hashlib.sha256((folder / "w.pth").read_bytes()).hexdigest(), **(values or {})}
    (folder / "adopt.yaml").write_text(yaml.safe_dump({"models": {"net": entry}}))
    plan = {"name": "net", "entry": f"{folder}/adopt.yaml:models.net", "seed": 0}
    plan |= {"id_set": folder / "digits.safetensors", "out": folder / "adopted.safetensors"}
    return refused(call(adopt.main, *options(**plan)), "adopt.yaml:models.net")


def _useless_deployed(folder: Path) -> Verdict:
    outcome = _deployed(folder, folder / "again.safetensors", **KINDS["msp"])
    return taken(outcome, lambda: _without(outcome.output, "like heldout it catches about", "Warning: "))


def _useless(folder: Path, html: bool) -> Verdict:
    page = {"html": folder / "page.html", "html_count": 45} if html else {}
    outcome = _scored(folder, folder / "msp.safetensors", "noise", **page)
    if not html:
        last = outcome.output.strip().splitlines()[-1]
        return taken(outcome, lambda: _without(last, "like heldout it catches about", "NOT RELY"))
    return taken(
        outcome, lambda: _without((folder / "page.html").read_text(), "alert", "it catches", "heldout")
    )


def _gallery(folder: Path, count: int) -> Verdict:
    """All pictures that are called OOD come first, as many as there is room for."""
    page = folder / "page.html"
    outcome = _scored(folder, folder / "gmm.safetensors", "", images=folder, html=page, html_count=count)

    def check() -> str | None:
        flagged = (folder / "s.csv").read_text().count(",true,")
        shown = page.read_text().count('<figure class="ood"')
        return None if shown == min(flagged, count) else f"{shown} of {flagged} flagged ones among {count}"

    return taken(outcome, check)


def _rate(folder: Path, option: str, value: str) -> Verdict:
    if option == "fdr":
        return refused(_scored(folder, folder / "knn.safetensors", fdr=value), "--fdr")
    places = {"model": folder / "net-0.safetensors", "embeddings": folder / "e" / "net.safetensors"}
    plan = {**places, "detector": "msp", "alpha": value, "out": folder / "again.safetensors"}
    return refused(call(deploy.main, *options(**plan)), "alpha")


def _without(text: str, *words: str) -> str | None:
    missing = [word for word in words if word not in text]
    return f"does not say {missing}" if missing else None


def _misplaced(folder: Path, option: str, place: str) -> Verdict:
    """A place that cannot be written is named, before pictures are read: one of them cannot be."""
    path = folder / place if place else f"{folder}/"
    (folder / "noise" / "broken.png").write_bytes(b"no picture")
    outcome = _scored(folder, folder / "knn.safetensors", "noise", **{option: path})
    (folder / "noise" / "broken.png").unlink()
    verdict = refused(outcome, place[:20] if place else str(folder))
    return Verdict("silent", "pictures were read first") if "broken.png" in outcome.output else verdict
