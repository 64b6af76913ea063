"""Detectors for a model file, fitted and calibrated from its embeddings or from the image sets themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sslood.auditing.disjoint import check_disjoint
from sslood.core.errors import InputError, known
from sslood.core.files import load_json
from sslood.core.settings import read_section, strict
from sslood.deploy.calibrated import KINDS, NETWORK, STOCHASTIC, Calibrated, Given, calibrate, made
from sslood.deploy.thresholds import Combination
from sslood.nets.inference.extract import check_batch_invariance
from sslood.nets.networks.files import check_fits, restore_model
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.network_detector import Network, NetworkDetector
from sslood.ood.kit.outputs import Embeddings, Outputs
from sslood.roles.roles import read_split, roles_of
from sslood.views.network_view import open_model

# what a model lacks that does not suit a detector, by what is read
LACKING = {
    "logits": "a classifier head (the stage `train` makes one)",
    "gradients": "a classifier head (the stage `train` makes one)",
    "maps": "a classifier head (the stage `train` makes one)",
    "projections": "a projector",
    "mu": "an embedding that is a Gaussian (objectives bayes_h_… and bayes_z_…)",
    "rotations": "a head that tells quarter turns (objectives rotation and rotpred)",
}


def section_of(detector: str) -> str:
    """Return the key of the params file under which the settings of a detector stand."""
    known(detector, "detector", KINDS)
    if detector == "ssd":
        return detector
    stage = "network" if detector in NETWORK else "stochastic" if detector in STOCHASTIC else "posthoc"
    return f"{stage}.{detector}"


def settings_of(
    detector: str, params: str, chosen: Sequence[str] = (), model: str = "", seed: int | None = None
) -> Any:
    """Return a detector's settings from its section of the params file, or what stages chose for `model`.

    chosen: results of stages, files named after their seed. InputError if a file lacks the section, no file
    holds a choice, or one is of another seed than the model's.
    """
    kind, where = KINDS[known(detector, "detector", KINDS)], f"{params}:{section_of(detector)}"
    names = [field.name for field in fields(kind.Settings)]
    if not names:
        return kind.Settings()
    if not chosen:
        section = read_section(where)
        section.pop("select", None)  # how the stage ssd finds its settings, and none of them
        return strict(kind.Settings, section, where)
    for path in chosen:
        stem = Path(path).stem
        if seed is not None and stem.isdecimal() and int(stem) != seed:
            raise InputError(
                f"{path}: choices of seed {stem}, but the model is of seed {seed}; use "
                f"{Path(path).with_stem(str(seed))}"
            )
        results = load_json(path)
        if detector in results.get("models", {}).get(model, {}):
            return strict(
                kind.Settings, _chosen(results.get("chosen", {}), kind, detector, model, path), path
            )
    raise InputError(
        f"{', '.join(chosen)}: no results of {detector} for model {model!r}; name the results of the stage "
        f"{section_of(detector).partition('.')[0]} by --chosen, or leave --chosen away"
    )


def _chosen(found: Mapping[str, Any], kind: Any, detector: str, model: str, path: str) -> dict[str, Any]:
    """Return name -> value of a detector's settings; of candidates the one that was taken."""
    prefixes = [f"{model}.", ""] if detector == "ssd" else [f"{model}.{detector}.", f"{detector}."]
    taken = getattr(kind, "candidates", {})
    values = {}
    for name in (field.name for field in fields(kind.Settings)):
        key = taken.get(name, name)
        value = next((found[prefix + key]["value"] for prefix in prefixes if prefix + key in found), None)
        if value is None:
            raise InputError(f"{path}: holds no {key} of {detector} for model {model!r}; run its stage again")
        values[name] = [value] if name in taken else value
    return values


def fit_deployed(
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    embeddings: Embeddings | None,
    sets: str,
    folder: Path,
    alpha: float,
    combination: Combination | None,
    device: str,
) -> Calibrated:
    """Fit detectors (name -> settings) for a model file's `arrays` and `metadata`, and calibrate.

    embeddings: of the model, for detectors that read its outputs. sets: FILE:KEY of the sets' roles,
    folder: their files, for detectors that ask the network. Calibrated on ID validation, or on ID test if
    the model was trained on validation: it is surer of images that it was trained on than of new ones, and
    a threshold from them raises too many alarms. Raises InputError if the embeddings are of another model,
    or the model lacks what a detector reads.
    """
    splits = ("train", "test" if metadata.get("saw_validation") else "validation")
    detectors = {
        name: made(name, one, seed=metadata["seed"], device=device) for name, one in settings.items()
    }
    asking = [one for one in detectors.values() if isinstance(one, NetworkDetector)]
    outputs, images, network = {}, {}, None
    if len(asking) < len(detectors):
        outputs = _outputs(embeddings, arrays, metadata, splits)
    if asking:
        images, network = _images(arrays, metadata, folder, splits, device)
    for name, one in detectors.items():
        _check_suits(name, one, network if one in asking else outputs["train"], metadata)
    train, held = (Given(outputs.get(split), images.get(split), network) for split in splits)
    _check_aligned(train, held, embeddings)
    tuning = None
    if any("tuning" in one.fitted_on for one in asking):
        tuning = _tuning_images(sets, metadata, folder)
    about = {"alpha": alpha, "combination": combination, "tuning": tuning}
    with tqdm(desc="deploy", unit="image", disable=None if asking else True) as bar:
        return calibrate(detectors, train, held, **about, progress=bar.update)


def _outputs(
    embeddings: Embeddings | None,
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    splits: Sequence[str],
) -> dict[str, Outputs]:
    """Return the outputs of ID splits; InputError if there are none, or they are of another model."""
    name, seed = metadata["name"], metadata["seed"]
    if embeddings is None:
        raise InputError(
            f"detectors that read what model {name!r} says need its embeddings; give "
            f"--embeddings data/embeddings/{seed}/{name}.safetensors"
        )
    if embeddings.metadata["model_metadata"] != metadata:
        raise InputError(
            f"{embeddings.path}: these are not the embeddings of model {name!r} of seed {seed}, or it was "
            "trained again since; write them with `dvc repro embed`"
        )
    outputs = {split: embeddings.outputs(embeddings.id, split) for split in splits}
    head = outputs["train"].head
    if head is not None and not np.array_equal(head.weight, arrays["head.weight"]):
        raise InputError(f"{embeddings.path}: the model was trained again since; run `dvc repro embed`")
    return outputs


def _images(
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    folder: Path,
    splits: Sequence[str],
    device: str,
) -> tuple[dict[str, np.ndarray], Network]:
    """Return (the images of ID splits, the network); InputError if they do not fit each other."""
    name, images = metadata["name"], {}
    for split in splits:
        images[split], about = read_split(folder, metadata["id"], split)
        check_fits(metadata, about, f"model {name!r}")
    model = restore_model(arrays, metadata, f"model {name!r}", device)
    preprocessing = {"mean": metadata["mean"], "std": metadata["std"]}
    check_batch_invariance(model, images[splits[1]], name=name, **preprocessing)
    return images, open_model(model, device=device, **preprocessing)


def _tuning_images(sets: str, metadata: Mapping[str, Any], folder: Path) -> np.ndarray:
    """Return the tuning images; InputError if there are none, or one of them is a test image."""
    section = read_section(sets)
    _, tuning = roles_of(section, metadata["id"], sets)
    check_disjoint(folder, section)
    images, about = read_split(folder, tuning, "validation")
    check_fits(metadata, about, f"model {metadata['name']!r}", id_set=False)
    return images


def _check_suits(
    name: str, detector: Detector | NetworkDetector, source: Outputs | Network, metadata: Mapping[str, Any]
) -> None:
    if detector.suits(source):
        return
    if isinstance(source, Network):
        lacking = detector.lacking(source)
    else:
        lacking = [part for part in detector.reads if not source.has([part])] or ["logits"]
    raise InputError(
        f"detector {name!r} does not suit model {metadata['name']!r}, which lacks {LACKING[lacking[0]]}"
    )


def _check_aligned(train: Given, held: Given, embeddings: Embeddings | None) -> None:
    """Raise InputError if outputs and images, where both are given, are not of as many images."""
    for given in (train, held):
        if given.outputs is not None and given.images is not None and len(given.outputs) != len(given.images):
            raise InputError(
                f"{embeddings.path}: holds the outputs of {len(given.outputs)} images where the set has "
                f"{len(given.images)}; write them again with `dvc repro embed`"
            )
