"""The outputs of a model for the images of one split, as arrays, read from its embeddings file."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sslood.core.errors import InputError
from sslood.core.files import load_tensors

PARTS = ("features", "projections", "logits", "mu", "log_variance")
CHUNK = 4096  # images at a time, so that float64 copies stay small


@dataclass(frozen=True)
class Head:
    """The linear classifier on the features: weight [K, D], bias [K]."""

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """Return logits [N, K] of features [N, D] in float64."""
        return features.astype(np.float64) @ self.weight.T.astype(np.float64) + self.bias


@dataclass(frozen=True)
class Prior:
    """Mixture of K diagonal Gaussians over a stochastic model's embeddings; one = a plain Gaussian.

    log_weights [K] (nats, their exponentials sum to 1), mu [K, D], log_variance [K, D].
    """

    log_weights: np.ndarray
    mu: np.ndarray
    log_variance: np.ndarray


@dataclass(frozen=True)
class Concepts:
    """Vectors of words in the space of a vision-language model's features, float [n, D].

    labels: one for each ID class, in order. negatives: of words that are no ID class, if any.
    """

    labels: np.ndarray
    negatives: np.ndarray | None = None


@dataclass(frozen=True)
class Outputs:
    """Outputs for N images; a part that the model does not have is None.

    name: set and split, for messages. features [N, D], projections [N, P], logits [N, K]: float.
    mu, log_variance [N, L]: the diagonal Gaussian of each image, of stochastic models; prior: over it.
    labels int64 [N], -1 where unknown. classes: number of classes of the ID set, if known.
    head: the model's classifier, where its weights are at hand. concepts: of a vision-language model.
    Raises InputError if a part or the head holds NaN or infinite numbers, or lengths or widths differ.
    """

    name: str
    features: np.ndarray | None = None
    projections: np.ndarray | None = None
    logits: np.ndarray | None = None
    mu: np.ndarray | None = None
    log_variance: np.ndarray | None = None
    labels: np.ndarray | None = None
    classes: int | None = None
    head: Head | None = None
    prior: Prior | None = None
    concepts: Concepts | None = None

    def __post_init__(self):
        for part in PARTS:
            array = getattr(self, part)
            if array is None:
                continue
            if array.ndim != 2 or len(array) != len(self):
                raise InputError(
                    f"{self.name}: {part} have shape {array.shape}, expected ({len(self)}, width)"
                )
            bad = sum(int((~np.isfinite(rows)).any(axis=1).sum()) for rows in chunks(array))
            if bad:
                raise InputError(
                    f"{self.name}: the {part} of {bad} of {len(self)} images are NaN or infinite; "
                    "the model did not train well, look at its training"
                )

        if self.head is not None:
            self._check_head(self.head)
        if self.concepts is not None:
            for part, vectors in vars(self.concepts).items():
                self._check_vectors(part, vectors)

    def _check_vectors(self, part: str, vectors: np.ndarray | None) -> None:
        if vectors is None or self.features is None:
            return
        if vectors.ndim != 2 or vectors.shape[1] != self.features.shape[1]:
            raise InputError(
                f"{self.name}: the vectors of {part} have shape {vectors.shape}, but the features are "
                f"{self.features.shape[1]} wide; take both from one model"
            )
        if bad := int((~np.isfinite(vectors)).any(axis=1).sum()):
            raise InputError(f"{self.name}: {bad} vectors of {part} are NaN or infinite; make them again")

    def _check_head(self, head: Head) -> None:
        bad = int((~(np.isfinite(head.weight).all(axis=1) & np.isfinite(head.bias))).sum())
        if bad:
            raise InputError(
                f"{self.name}: the classifier's weights of {bad} of {len(head.bias)} classes are NaN or "
                "infinite; the model did not train well, look at its training"
            )
        for part, width in zip(("logits", "features"), head.weight.shape, strict=True):
            array = getattr(self, part)
            if array is not None and array.shape[1] != width:
                raise InputError(
                    f"{self.name}: the classifier has weights for {width} {part}, but there are "
                    f"{array.shape[1]}; it belongs to another model"
                )

    def __len__(self) -> int:
        return next((len(array) for part in PARTS if (array := getattr(self, part)) is not None), 0)

    def has(self, parts: Iterable[str]) -> bool:
        """Whether every one of `parts` is there."""
        return all(getattr(self, part) is not None for part in parts)

    def need(self, part: str) -> np.ndarray:
        """Return a part [N, width]; InputError if the model does not have it."""
        array: np.ndarray | None = getattr(self, part)
        if array is None:
            raise InputError(f"{self.name}: holds no {part}, which this model does not have")
        return array

    def need_head(self) -> Head:
        """Return the classifier; InputError if its weights are not at hand."""
        if self.head is None:
            raise InputError(
                f"{self.name}: the weights of the classifier are missing; if the model is one, "
                "run `dvc repro embed` again"
            )
        return self.head

    def need_concepts(self, part: str) -> np.ndarray:
        """Return vectors of words, "labels" or "negatives", float64 [n, D]; InputError if there are none."""
        vectors: np.ndarray | None = getattr(self.concepts, part, None)
        if vectors is None:
            raise InputError(f"{self.name}: there are no vectors of {part}, which this model does not have")
        return vectors.astype(np.float64)

    def need_classes(self) -> int:
        """Return the number of classes of the ID set; InputError if it is unknown."""
        if self.classes is None:
            raise InputError(f"{self.name}: the number of classes is unknown; set `classes`")
        return self.classes


def chunks(array: np.ndarray, size: int = CHUNK) -> Iterator[np.ndarray]:
    """Yield `array` in pieces of at most `size` rows."""
    for start in range(0, len(array), size):
        yield array[start : start + size]


def part_of(outputs: Outputs, rows: slice) -> Outputs:
    """Return the outputs of some of the images."""
    arrays = {part: getattr(outputs, part) for part in (*PARTS, "labels")}
    return replace(outputs, **{part: a[rows] for part, a in arrays.items() if a is not None})


def chunked(outputs: Outputs, size: int = CHUNK) -> Iterator[Outputs]:
    """Yield the outputs of at most `size` images at a time."""
    for start in range(0, len(outputs), size):
        yield part_of(outputs, slice(start, start + size))


@dataclass(frozen=True)
class Shots:
    """Candidates for few-shot detection: features [P, copies, D] and their indices in the test split [P]."""

    features: np.ndarray
    index: np.ndarray


class Embeddings:
    """One model's embeddings file: outputs by set and split, memory-mapped.

    model: its name; id: name of the ID set; roles: set -> "id", "near", "far", "shifted" or "tuning".
    """

    def __init__(self, path: Path, tensors: dict[str, np.ndarray], metadata: dict):
        self.path, self._tensors, self.metadata = path, tensors, metadata
        self.model: str = metadata["model"]
        self.id: str = metadata["id"]
        self.roles: dict[str, str] = {name: entry["role"] for name, entry in metadata["sets"].items()}

    @property
    def ood_sets(self) -> list[str]:
        """Names of the OOD test sets, near and far, in the file's order."""
        return [name for name, entry in self.metadata["sets"].items() if entry["is_ood"]]

    @property
    def tuning_sets(self) -> list[str]:
        """Names of the sets on which settings may be chosen, in the file's order."""
        return [name for name, entry in self.metadata["sets"].items() if entry["is_tuning"]]

    @property
    def shifted_sets(self) -> list[str]:
        """Names of the sets that show ID classes under shift and count as ID, in the file's order."""
        return [name for name, entry in self.metadata["sets"].items() if entry.get("is_shifted")]

    @property
    def saw_validation(self) -> bool:
        """Whether the model was trained on images of ID validation."""
        return bool(self.metadata["model_metadata"].get("saw_validation"))

    @property
    def size(self) -> int:
        """Number of values in the ID train features, a measure of the work on this file."""
        return self._tensors[f"{self.id}.train.features"].size

    def outputs(self, name: str, split: str) -> Outputs:
        """Return the outputs of one split; InputError if the file does not hold it."""
        where = f"{name}.{split}"
        parts = {part: self._tensors.get(f"{where}.{part}") for part in (*PARTS, "labels")}
        if parts["features"] is None:
            raise InputError(f"{self.path}: holds no features of {where}; run `dvc repro embed` again")
        return Outputs(
            name=f"{self.path}, {where}",
            classes=len(self.metadata["classes"]),
            head=self._head(),
            prior=self._prior(),
            concepts=self._concepts(),
            **parts,
        )

    def _head(self) -> Head | None:
        weight, bias = (self._tensors.get(f"head.{part}") for part in ("weight", "bias"))
        return None if weight is None or bias is None else Head(weight, bias)

    def _concepts(self) -> Concepts | None:
        labels = self._tensors.get("concepts.labels")
        return None if labels is None else Concepts(labels, self._tensors.get("concepts.negatives"))

    def _prior(self) -> Prior | None:
        parts = [self._tensors.get(f"prior.{part}") for part in ("log_weights", "mu", "log_variance")]
        present = [part for part in parts if part is not None]
        return Prior(*present) if len(present) == len(parts) else None

    def shots(self, name: str) -> Shots:
        """Return the few-shot candidates of an OOD set; InputError if the file does not hold them."""
        features, index = (self._tensors.get(f"{name}.shots.{part}") for part in ("features", "index"))
        if features is None or index is None:
            raise InputError(f"{self.path}: holds no shots of {name}; run `dvc repro embed` again")
        bad = int((~np.isfinite(features)).any(axis=(1, 2)).sum())
        if bad:
            raise InputError(
                f"{self.path}: the features of {bad} of {len(index)} shots of {name} are NaN or infinite"
            )
        return Shots(features, index)


def read_embeddings(folder: str | Path, model: str, seed: int) -> Embeddings:
    """Open FOLDER/<model>.safetensors; InputError if it is missing or of another model or seed."""
    path = Path(folder) / f"{model}.safetensors"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in Path(folder).glob("*.safetensors"))) or "none"
        raise InputError(
            f"{path}: no embeddings of model {model!r} (known there: {there}); "
            "correct the list of models, or write them with `dvc repro embed`"
        )
    tensors, metadata = load_tensors(path, kind="embeddings")
    if (metadata["model"], metadata["seed"]) != (model, seed):
        raise InputError(
            f"{path}: holds model {metadata['model']!r} of seed {metadata['seed']}, "
            f"not {model!r} of seed {seed}; run `dvc repro embed`"
        )
    return Embeddings(path, tensors, metadata)
