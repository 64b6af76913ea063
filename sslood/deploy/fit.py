"""Detectors for a model file, fitted and calibrated from its embeddings or from the image sets themselves."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from sslood.auditing.disjoint import check_disjoint
from sslood.core.errors import InputError
from sslood.core.settings import autos, read_section
from sslood.data.sets.roles.roles import OOD_ROLES, names_of_roles, read_split, read_tuning, roles_of
from sslood.deploy.calibrated import KINDS, Calibrated, calibrate, make_detector
from sslood.deploy.catches import measure_catches, read_control
from sslood.deploy.inputs import AnyDetector, Inputs, present
from sslood.deploy.measured import Choice
from sslood.nets.networks.card import ModelCard, check_fits
from sslood.nets.networks.files import restore_model
from sslood.ood.kit.combining import Combination
from sslood.ood.kit.detector import Detector
from sslood.ood.kit.network_detector import Network, NetworkDetector, Progress
from sslood.ood.kit.outputs import Embeddings, Outputs
from sslood.ood.kit.search import best_settings, tuning_of
from sslood.ood.ssd.selection import SOURCE, select_settings
from sslood.ood.ssd.ssd import SSD
from sslood.views.network_view import checked_network

# what a model lacks that does not suit a detector, by what is read
LACKING = {
    "logits": "a classifier head (the stage `train` makes one)",
    "gradients": "a classifier head (the stage `train` makes one)",
    "maps": "a classifier head (the stage `train` makes one)",
    "stages": "a backbone with convolutions",
    "head": "a classifier head (the stage `train` makes one)",
    "projections": "a projector",
    "mu": "an embedding that is a Gaussian (objectives bayes_h_… and bayes_z_…)",
    "rotations": "a head that predicts quarter turns (objectives rotation and rotpred)",
}


def fit_deployed(
    arrays: Mapping[str, np.ndarray],
    metadata: Mapping[str, Any],
    choices: Mapping[str, Choice],
    *,
    embeddings: Embeddings | None,
    sets: str,
    folder: Path,
    audit: Path | None = None,
    alpha: float,
    combination: Combination | None,
    per_class: bool = False,
    device: str,
) -> Calibrated:
    """Fit detectors (name -> settings) for a model file's `arrays` and `metadata`, and calibrate.

    Settings that are "auto" are chosen first, as their stages do. embeddings: of the model, for detectors
    that read its outputs. sets: FILE:KEY of the sets' roles, folder: their files, for detectors that query
    the network. Calibrated on ID validation, or on ID test if the model was trained on validation: it is
    surer of images that it was trained on than of new ones, and a threshold from them raises too many alarms.
    What the result catches is measured on the test images of the near and far sets, those of `embeddings` or
    else of `sets`, and compared with the artefact control of the file `audit`, if there is one.
    per_class: a threshold for each class that the model predicts.
    Raises InputError if the embeddings are of another model, or the model lacks what a detector reads.
    """
    kinds = {name: KINDS[name] for name in choices}
    splits = ["train", "validation", *(["test"] if metadata.get("saw_validation") else [])]
    seed, settings = metadata["seed"], {name: choice.settings for name, choice in choices.items()}
    detectors = {name: make_detector(name, one, seed=seed, device=device) for name, one in settings.items()}
    outputs: dict[str, Outputs] = {}
    images: dict[str, np.ndarray] = {}
    network = None
    classes = _classes(metadata) if per_class else None
    if per_class or any(issubclass(kind, Detector) for kind in kinds.values()):
        outputs = _outputs(embeddings, arrays, metadata, splits)
    if any(issubclass(kind, NetworkDetector) for kind in kinds.values()):
        images, network = _images(arrays, metadata, folder, splits, device)
    parts = {
        split: Inputs(outputs.get(split), images.get(split), network, f"{metadata['id']}.{split}")
        for split in splits
    }
    for name, detector in detectors.items():
        _check_suits(name, detector, parts["train"], metadata)
    _check_aligned(parts, embeddings)
    with tqdm(desc="deploy", unit="image", disable=True if network is None else None) as bar:
        for name, choice in choices.items():
            if not autos(choice.settings):
                continue
            found, source = _chosen(detectors[name], parts, embeddings, (sets, folder), metadata, bar.update)
            choices = {**choices, name: choice.resolved(found, source)}
            detectors[name] = make_detector(name, found, seed=seed, device=device)
        found = calibrate(
            detectors,
            parts["train"],
            parts[splits[-1]],
            alpha=alpha,
            validation=parts["validation"] if "test" in parts else None,
            combination=combination,
            per_class=classes,
            sources={name: choice.sources for name, choice in choices.items()},
            progress=bar.update,
        )
        try:
            tests = _tests(parts["train"], None if not outputs else embeddings, (sets, folder), metadata)
        except InputError as error:
            return replace(found, unmeasured=str(error))
        if "test" in parts:  # which calibrated
            del tests[metadata["id"]]
        control = {} if audit is None else read_control(audit, metadata["id"], alpha)
        catches = measure_catches(
            lambda part: found.is_ood(found.score(part), found.places(part)), tests, control
        )
        return replace(found, catches=catches)


def _classes(metadata: Mapping[str, Any]) -> list[str]:
    """Return the names of the classes in the order of the logits; InputError if there is no classifier."""
    if metadata["head_classes"] is None:
        raise InputError(
            f"--per_class needs the classes that a model predicts, but model {metadata['name']!r} lacks "
            f"{LACKING['logits']}; omit it"
        )
    return [str(metadata["classes"][place]) for place in metadata["head_classes"]]


def _tests(
    like: Inputs, embeddings: Embeddings | None, sets: tuple[str, Path], metadata: Mapping[str, Any]
) -> dict[str, tuple[str, Inputs]]:
    """Return {set: (role, its test images)} of the ID set and the near and far ones, read as `like` is.

    Raises InputError if there is none, or a file is missing or holds images of another shape.
    """
    roles = embeddings.roles if embeddings else names_of_roles(read_section(sets[0]), sets[0])
    names = [metadata["id"], *(name for name, role in roles.items() if role in OOD_ROLES)]
    tests = {}
    for name in names:
        outputs = images = None
        if like.outputs is not None:
            outputs = present(embeddings).outputs(name, "test")
        if like.images is not None:
            images, about = read_split(sets[1], name, "test")
            check_fits(metadata, about, f"model {metadata['name']!r}", id_set=name == metadata["id"])
        tests[name] = roles.get(name, "id"), Inputs(outputs, images, like.network, f"{name}.test")
    _check_aligned({name: inputs for name, (_, inputs) in tests.items()}, embeddings)
    return tests


def _chosen(
    detector: AnyDetector,
    parts: Mapping[str, Inputs],
    embeddings: Embeddings | None,
    sets: tuple[str, Path],
    metadata: Mapping[str, Any],
    progress: Progress,
) -> tuple[Any, str]:
    """Return (settings without "auto", the criterion in words), chosen as the detector's stage does."""
    settings = detector.settings
    train, validation = parts["train"], parts["validation"]
    if isinstance(detector, NetworkDetector):
        names, tuning = _tuning_images(*sets, metadata)
        images = {"train": present(train.images), "validation": present(validation.images), "tuning": tuning}
        detector.fit(present(train.network), images, progress)
        return detector.settings, f"highest AUROC of {validation.name} against {names}"
    if isinstance(detector, SSD):
        outputs = present(train.outputs), present(validation.outputs)
        return select_settings(settings, *outputs, detector.seed)[0], SOURCE
    tuning_outputs = tuning_of(present(embeddings))
    found = best_settings(
        type(detector), settings, tuning_outputs, seed=detector.seed, device=detector.device
    )
    return found.detector.settings, tuning_outputs.source


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
            f"detectors that read the outputs of model {name!r} need its embeddings; give "
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
    where = f"model {metadata['name']!r}"
    parts = {split: read_split(folder, metadata["id"], split) for split in splits}
    network = checked_network(
        restore_model(arrays, metadata, where, device),
        ModelCard.read(metadata, where),
        where,
        parts[splits[0]][0],
        [about for _, about in parts.values()],
    )
    return {split: images for split, (images, _) in parts.items()}, network


def _tuning_images(sets: str, folder: Path, metadata: Mapping[str, Any]) -> tuple[str, np.ndarray]:
    """Return (names, images) of the tuning sets; InputError if there is none, or one shares a test image."""
    section = read_section(sets)
    _, tuning = roles_of(section, metadata["id"], sets)
    if not tuning:
        raise InputError(f"{sets}: holds no set with role tuning to choose settings on; list one")
    check_disjoint(folder, section)
    images, _, names = read_tuning(folder, tuning)
    return names, images


def _check_suits(name: str, detector: AnyDetector, train: Inputs, metadata: Mapping[str, Any]) -> None:
    """Raise InputError naming what the model lacks that the detector reads."""
    if isinstance(detector, NetworkDetector):
        lacking: Sequence[str] = detector.lacking(present(train.network))
    elif detector.suits(outputs := present(train.outputs)):
        lacking = []
    else:
        lacking = [part for part in detector.reads if not outputs.has([part])] or ["logits"]
    if lacking:
        raise InputError(
            f"detector {name!r} does not suit model {metadata['name']!r}, which lacks {LACKING[lacking[0]]}"
        )


def _check_aligned(parts: Mapping[str, Inputs], embeddings: Embeddings | None) -> None:
    """Raise InputError if outputs and images, where both are read, are not of equally many images."""
    for part in parts.values():
        if part.outputs is None or part.images is None or len(part.outputs) == len(part.images):
            continue
        raise InputError(
            f"{present(embeddings).path}: holds the outputs of {len(part.outputs)} images where the set has "
            f"{len(part.images)}; write them again with `dvc repro embed`"
        )
