"""A frozen backbone with a linear classifier is scikit-learn's logistic regression on its features."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sslood.core.batches import batches
from sslood.core.errors import InputError
from sslood.core.files import save_tensors
from sslood.nets.adopting import frozen
from sslood.nets.adopting.frozen import fit_head, read_any
from sslood.nets.inference.extract import extract
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.card import ModelCard
from sslood.nets.networks.files import load_model, stored
from stages import adopt
from tests.kit.small import call, digit_images, set_metadata

L2 = 0.01


def test_the_head_is_logistic_regression_on_standardised_features():
    random = np.random.default_rng(0)
    labels = {split: np.arange(count) % 3 for split, count in (("train", 90), ("validation", 60))}
    features = {
        split: (random.normal(0, 3, (len(y), 8)) + 2 * y[:, None]) * 10.0 ** np.arange(-3, 5)
        for split, y in labels.items()
    }
    features["train"][:, 7] = features["validation"][:, 7] = 5.0  # without spread
    weights, measured = fit_head(features, labels, classes=3, l2s=(L2,))
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (L2 * 90), tol=1e-10, max_iter=5000))
    theirs.fit(features["train"], labels["train"])
    logits = features["validation"] @ weights[:-1] + weights[-1]
    mine = np.exp(logits - logits.max(1, keepdims=True))
    mine /= mine.sum(1, keepdims=True)
    assert np.abs(mine - theirs.predict_proba(features["validation"])).max() < 1e-5
    right = theirs.score(features["validation"], labels["validation"])
    assert measured == {"l2": L2, "accuracy": pytest.approx(right, abs=1e-4)}


def test_the_penalty_is_the_best_on_validation():
    """With noise in most of 40 features and 20 images, only a stiff classifier is right."""
    random = np.random.default_rng(1)
    labels = {split: np.arange(count) % 2 for split, count in (("train", 20), ("validation", 400))}
    features = {s: random.normal(0, 1, (len(y), 40)) + 0.4 * (y[:, None] - 0.5) for s, y in labels.items()}
    rights = {l2: fit_head(features, labels, classes=2, l2s=(l2,))[1]["accuracy"] for l2 in (1e-4, 0.1, 10.0)}
    assert len(set(rights.values())) > 1
    chosen = fit_head(features, labels, classes=2, l2s=(1e-4, 0.1, 10.0))[1]
    assert chosen["accuracy"] == max(rights.values()) and rights[chosen["l2"]] == chosen["accuracy"]


@pytest.fixture
def small(monkeypatch):
    """`open_pretrained` of a small network instead of a downloaded one; what it was asked for."""
    asked = {}

    def opened(name, *, set_name, classes, weights, size):
        asked.update(name=name, weights=weights)
        with seeded(0, "backbone"):
            backbone = build_backbone("resnet-8-4", channels=3)
        card = ModelCard(
            name=name, arch="resnet-8-4", objective="pretrained", seed=0, id=set_name, size=size, channels=3,
            mean=[0.4] * 3, std=[0.3] * 3, resize="", classes=classes, feature_dim=backbone.feature_dim,
            settings={"licence": "none"},
        )  # fmt: skip
        return stored({"backbone": backbone}, card, name)

    monkeypatch.setattr(frozen, "open_pretrained", opened)
    return asked


def adopted(folder, entry: str, id_set: str = "own") -> int:
    (folder / "params.yaml").write_text(f"models: {{frozen: {entry}}}\n")
    return call(
        adopt.main, name="frozen", entry=f"{folder}/params.yaml:models.frozen", seed=0,
        id_set=folder / f"{id_set}.safetensors", out=folder / "frozen-0.safetensors",
    )  # fmt: skip


def colour_set(folder, name: str = "own", channels: int = 3, labelled: bool = True) -> None:
    """Write 300 and 100 digits as an ID set, in colour, or without labels."""
    images, labels = digit_images()
    cuts = {"train": slice(0, 300), "validation": slice(300, 400)}
    tensors = {f"{split}.images": images[rows].repeat(channels, 1) for split, rows in cuts.items()}
    known = {f"{split}.labels": labels[rows] for split, rows in cuts.items()}
    tensors |= known if labelled else {key: np.full_like(values, -1) for key, values in known.items()}
    classes = list("0123456789") if labelled else []
    meta = set_metadata("own", classes, {}, mean=[0.5] * channels, std=[0.5] * channels)
    save_tensors(folder / f"{name}.safetensors", tensors, kind="set", metadata=meta | {"channels": channels})


def test_the_stage_writes_a_classifier_on_the_backbone_as_it_was(small, tmp_path, capfd):
    colour_set(tmp_path)
    assert adopted(tmp_path, "{pretrained: net, weights: there.pth}") == 0
    assert small == {"name": "net", "weights": "there.pth"}
    model, card = load_model(tmp_path / "frozen-0.safetensors")
    with seeded(0, "backbone"):
        before = build_backbone("resnet-8-4", channels=3).state_dict()
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())
    assert (card.name, card.objective, card.head_classes) == ("frozen", "adopted", list(range(10)))
    publishers = (card.mean, card.std, card.settings["licence"])
    assert publishers == ([0.4] * 3, [0.3] * 3, "none")
    images, labels = digit_images()
    found = extract(model, batches(images[300:400].repeat(3, 1), 50), mean=card.mean, std=card.std)
    right = float((found["logits"].argmax(1) == labels[300:400]).mean())
    assert right > 0.6 and card.settings["measured"]["accuracy"] == pytest.approx(right, abs=0.011)
    assert f"net, linear classifier: ID validation accuracy {right:.2f}" in capfd.readouterr().out


def test_without_labels_it_is_an_encoder_and_grey_or_wrong_entries_are_refused(small, tmp_path, capfd):
    colour_set(tmp_path, "flat", labelled=False)
    assert adopted(tmp_path, "{pretrained: net}", "flat") == 0
    assert load_model(tmp_path / "frozen-0.safetensors")[1].head_classes is None
    assert "net, without a classifier: needs 2 labelled classes in train" in capfd.readouterr().out
    colour_set(tmp_path, "grey", channels=1)
    assert adopted(tmp_path, "{pretrained: net}", "grey") == 1
    assert "pretrained backbones see in colour; set data.channels to 3" in capfd.readouterr().err
    assert adopted(tmp_path, "{pretrained: net, layout: dino}", "flat") != 0
    assert "layout" in capfd.readouterr().err
    (tmp_path / "params.yaml").write_text("models: {frozen: {pretrained: net, l2: []}}")
    with pytest.raises(InputError, match="l2 must list at least one"):
        read_any(f"{tmp_path}/params.yaml:models.frozen")
