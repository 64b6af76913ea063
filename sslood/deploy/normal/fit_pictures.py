"""From folders of pictures to a calibrated detector: normal ones, perhaps by class, and perhaps known bad
ones.

from sslood.deploy.normal.fit_pictures import fit_folder

fit_folder("normal", alpha=0.05).save("mine.safetensors")
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.data.sets.convert import UNREADABLE, notes_of
from sslood.data.sets.images import Filter, Square, chain_text
from sslood.data.sets.tree import class_of
from sslood.deploy.folded import folded
from sslood.deploy.normal.choice import Given
from sslood.deploy.normal.copies import groups_of, together
from sslood.deploy.normal.embedding import Embedded, Embedder
from sslood.deploy.normal.fit_normal import Distorted, Fitted, described, fit_normal
from sslood.deploy.normal.kept import Kept
from sslood.deploy.normal.known_bad import kind_of
from sslood.deploy.normal.split import Split, split_normal
from sslood.deploy.pictures import Found, find_pictures
from sslood.deploy.scorer import load_deployed, save_deployed
from sslood.nets.adopting.pretrained import default_name, open_pretrained
from sslood.nets.inference.looks import Looks, seeing
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.files import restore_model, stored
from sslood.nets.networks.heads import build_head
from sslood.ood.kit.outputs import Head

DISTORTED = 256  # pictures that are distorted to choose on, and as many to measure on
NORMAL = "normal"  # the class of pictures without classes


@dataclass(frozen=True)
class FittedPictures:
    """What a detector file is made of, and where it comes from.

    arrays, card: of the network, with a head where there are classes. pictures: the normal ones that were
    used, at the positions of `fitted.split`, and found: what they were found as. notes: in sentences, what
    became of the others. kept: what can go once the file is written. looks: how often the network sees a
    picture.
    """

    arrays: Mapping[str, np.ndarray]
    card: ModelCard
    fitted: Fitted
    pictures: Embedded
    found: Found
    notes: Sequence[str]
    kept: Kept = field(default_factory=Kept)
    looks: Looks = field(default_factory=Looks)

    def describe(self) -> list[str]:
        """Return in sentences what was done with the pictures, and what the detector is and catches."""
        return described(self.fitted, len(self.card.classes))

    def save(self, path: str | Path, **parts: Any) -> None:
        """Write the detector file, with other `parts` that `save_deployed` takes.

        What an interrupted run would go on from goes only once the file can be read.
        """
        metadata = {**self.card.metadata(), **self.looks.metadata()}
        save_deployed(path, self.arrays, metadata, self.fitted.calibrated, **parts)
        if self.kept.folder is not None:
            load_deployed(path)
        self.kept.clear()


def fit_folder(
    folder: str | Path,
    *,
    alpha: float,
    backbone: str | None = None,
    weights: str | None = None,
    size: int | None = None,
    square: Square | None = None,
    bad: Sequence[str | Path] = (),
    flat: bool = False,
    **options: Any,
) -> FittedPictures:
    """Return `fit_pictures` of a folder (or list, or picture) of normal pictures and of known bad ones.

    backbone: a name of docs/backbones.md, by default the one whose weights are in an installed package;
    weights, size: in place of its own, see `open_pretrained`. square: the way of pictures to a square, in
    place of its own. A bad picture that lies among the normal ones is no normal one.
    """
    known = {kind_of(one, bad): find_pictures(Path(one)) for one in bad}
    found = _without(find_pictures(Path(folder)), {path for one in known.values() for path in one.paths})
    names = sorted(set(classes_of(found, flat))) or [NORMAL]
    name, about = backbone or default_name(), Path(folder).stem
    arrays, card = open_pretrained(name, set_name=about, classes=names, weights=weights, size=size)
    if square not in (None, card.square):
        way = chain_text(card.size, card.channels, square, cast(Filter, card.filter))
        card = card.replace(square=square, resize_to=None, resize=way)
    return fit_pictures(arrays, card, found, alpha=alpha, bad=known, flat=flat, **options)


def _without(found: Found, others: set[Path]) -> Found:
    """Return the pictures that are not among others; InputError if none is left."""
    known = {path.resolve() for path in others}
    rows = [row for row, path in enumerate(found.paths) if not known or path.resolve() not in known]
    if not rows:
        raise InputError(
            f"{found.paths[0]}: all normal pictures are also among the known bad ones; give other pictures"
        )
    own = [found.own[row] for row in rows] if found.own else ()
    return Found([found.paths[row] for row in rows], [found.names[row] for row in rows], found.left, own)


def classes_of(found: Found, flat: bool = False) -> list[str]:
    """Return the class of each picture: the column `label` of a list, or its first folder; [] without
    classes.

    One folder alone is no class. Raises InputError for pictures beside class folders, and for a list that
    labels some pictures only. flat: there are no classes.
    """
    if flat:
        return []
    if found.own:
        names = [str(row.get("label", "")) for row in found.own]
    else:
        names = [class_of(tuple(name.split("/"))) for name in found.names]
    if len(set(names)) < 2:
        return []
    if "" in names:
        raise InputError(
            f"{found.paths[names.index('')]}: has no class, others have; put each picture into a folder of "
            "its class, or none, or give --flat where the folders are no classes"
        )
    return names


def fit_pictures(
    arrays: Mapping[str, np.ndarray],
    card: ModelCard,
    found: Found,
    *,
    alpha: float,
    detector: str | Sequence[str] = "auto",
    given: Given | None = None,
    bad: Mapping[str, Found] | None = None,
    flat: bool = False,
    skip_unreadable: bool = False,
    per_class: bool = False,
    seed: int = 0,
    device: str = "cpu",
    mirror: bool = False,
    shift: int = 0,
    keep: str | Path | None = None,
) -> FittedPictures:
    """Embed pictures by the network of a model file without head; fit and calibrate as `fit_normal`.

    bad: known bad pictures by kind. Copies of one picture count once, and none is on both sides of the split;
    of a picture that is also among the bad ones, these keep it. mirror, shift: how often the network sees
    a picture, here and wherever the file is used (`sslood.nets.inference.looks`). keep: a folder for what is
    embedded, so that the same call goes on after an interruption; it is emptied once the result is saved.
    Raises InputError for a picture that cannot be read, unless `skip_unreadable`, for a shift that is no less
    than a side, and as `fit_normal`.
    """
    looks = Looks(mirror, shift)
    looks.check(card.size, "--shift")
    names = classes_of(found, flat)
    model = restore_model(arrays, card.metadata(), card.name, device)
    bad = bad or {}
    total = len(found.paths) + sum(len(one.paths) for one in bad.values())
    of_any = {**card.replace(id="", classes=[]).metadata(), **looks.metadata()}
    kept = Kept.of(keep, arrays, of_any, device)
    with tqdm(total=total, desc="embed", unit="image", disable=None) as bar:
        how: dict[str, Any] = {"unreadable": [] if skip_unreadable else None, "kept": kept}
        embedder = Embedder(seeing(folded(model), looks), card.metadata(), bar.update, **how)
        known = {kind: embedder.embed(one.paths) for kind, one in bad.items()}
        pictures, known, groups, notes = _apart(embedder.embed(found.paths), known)
        if kept.found:  # so far, without distorted copies
            notes = [f"{kept.found} pictures were embedded before, by a run that was interrupted", *notes]
        labels, classes = _labels(pictures, found, names)
        split = split_normal(
            len(groups), alpha=alpha, seed=seed, groups=groups, labels=labels, what="normal pictures"
        )
        distorted = _distorted(embedder, pictures, split, labels, seed, bar)
    fitted = fit_normal(
        pictures.features,
        labels,
        classes,
        alpha=alpha,
        detector=detector,
        given=given,
        with_head=True,
        per_class=per_class,
        bad={kind: one.features for kind, one in known.items()},
        distorted=distorted,
        split=split,
        seed=seed,
        name="normal pictures",
    )
    card = card.replace(classes=list(classes) or [NORMAL])
    if fitted.head is not None:
        arrays, card = _with_head(model.backbone, card, fitted.head)
    notes += _remarks(embedder, total)
    return FittedPictures(arrays, card, fitted, pictures, found, notes, kept, looks)


def _apart(
    pictures: Embedded, known: Mapping[str, Embedded]
) -> tuple[Embedded, dict[str, Embedded], np.ndarray, list[str]]:
    """Return (normal pictures that are no copy of a bad one, bad ones without copies, groups of the normal
    ones that belong on one side: copies of one another and boxes of one file; what is to be said)."""
    every = [*known.values(), pictures]
    parts = [[getattr(one, key) for one in every] for key in ("hashes", "mirrored", "features")]
    groups = groups_of(*map(np.concatenate, parts))
    starts = np.cumsum([0, *(len(one.paths) for one in every)])
    seen: set[int] = set()
    notes: list[str] = []
    kept: dict[str, Embedded] = {}
    for (kind, one), start in zip(known.items(), starts, strict=False):
        own = groups[start : start + len(one.paths)]
        rows = [row for row in np.sort(np.unique(own, return_index=True)[1]) if own[row] not in seen]
        seen |= set(own.tolist())
        kept |= {kind: one.part(np.array(rows, np.int64))} if rows else {}
        if copies := len(own) - len(rows):
            notes.append(
                f"{copies} of {len(own)} pictures of {kind} are copies of other known bad ones: left out"
            )
    own = groups[starts[-2] :]
    good = np.flatnonzero(~np.isin(own, groups[: starts[-2]]))
    if lost := len(own) - len(good):
        notes.append(f"{lost} of {len(own)} normal pictures are copies of known bad ones: left out")
    if copies := len(good) - len(set(own[good].tolist())):
        notes.append(f"{copies} of {len(good)} normal pictures are copies of others: kept on one side")
    pictures = pictures.part(good)
    return pictures, kept, together(own[good], pictures.paths), notes


def _labels(
    pictures: Embedded, found: Found, names: Sequence[str]
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return (labels [N], their names) of pictures, (None, ()) without two classes."""
    own = [names[found.places[path]] for path in pictures.paths] if names else []
    classes = tuple(sorted(set(own)))
    if len(classes) < 2:
        return None, ()
    return np.array([classes.index(name) for name in own], np.int64), classes


def _distorted(
    embedder: Embedder, pictures: Embedded, split: Split, labels: np.ndarray | None, seed: int, bar: tqdm
) -> Distorted:
    """Return distorted copies of at most DISTORTED pictures of either side."""
    random = numpy_stream(seed, "normal", "to distort")
    rows = [np.sort(random.permutation(side)[:DISTORTED]) for side in (split.fit, split.calibration)]
    bar.total = bar.n + sum(map(len, rows))
    features, of = [], []
    for side, some in zip(("fit", "calibration"), rows, strict=True):
        paths = [pictures.paths[row] for row in some]
        own = None if labels is None else labels[some]
        found, sources = embedder.embed_distorted(paths, own, side, seed)
        features.append(found)
        of.append(some[sources])
    return Distorted(np.concatenate(features), np.concatenate(of))


def _with_head(backbone: nn.Module, card: ModelCard, head: Head) -> tuple[dict[str, np.ndarray], ModelCard]:
    """Return the arrays and the card of the network with a classifier of all classes."""
    linear = build_head(card.feature_dim, len(head.bias))
    linear.load_state_dict({"weight": torch.from_numpy(head.weight), "bias": torch.from_numpy(head.bias)})
    card = card.replace(head_classes=list(range(len(head.bias))))
    return stored({"backbone": backbone, "head": linear}, card, card.name)


def _remarks(embedder: Embedder, count: int) -> list[str]:
    """Return what is to be said of pictures that were read, and the names of those that were not."""
    left = [f"{path}: left out, {detail}" for path, (kind, detail) in embedder.remarks if kind == UNREADABLE]
    others = [(str(path), remark) for path, remark in embedder.remarks if remark[0] != UNREADABLE]
    return left + notes_of(others, count)
