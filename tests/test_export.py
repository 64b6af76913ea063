"""ONNX graphs: every detector's form against the detector, a whole scorer in onnxruntime on real digits."""

import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from stages import deploy, embed, export
from stages.core.artefacts import load_tensors
from stages.deployment import load_deployed
from stages.models.build import build_backbone, seeded
from stages.models.files import save_model
from stages.models.heads import build_head
from stages.ood.files import KINDS
from stages.ood.graphs import FORMS
from tests.ood.test_head_detectors import TEST, TRAIN, VALIDATION
from tests.small import call, model_metadata, write_params, write_sets

SETTINGS = {"knn": {"k": 5}, "ssd": {"clusters": 3}}
VARIANTS = [(name, SETTINGS.get(name, {})) for name in FORMS]
VARIANTS += [("ash", {"variant": "b"}), ("ash", {"variant": "p"}), ("gen", {"top": 3, "gamma": 0.3})]
PARTS, WIDTH = ("features", "logits"), TEST.features.shape[1]


def fitted(name, settings):
    return KINDS[name](KINDS[name].Settings(**settings), seed=0).fit(TRAIN, VALIDATION)


def form(name, detector):
    state = {key: torch.from_numpy(array.copy()) for key, array in detector.state.items()}
    return FORMS[name](state, detector.settings)


@pytest.mark.parametrize("name, settings", VARIANTS)
def test_a_form_gives_the_scores_of_its_detector(name, settings):
    detector = fitted(name, settings)
    found = {part: torch.from_numpy(getattr(TEST, part)).double() for part in PARTS}
    scores = detector.score(TEST)
    assert np.std(scores) > 0
    np.testing.assert_allclose(form(name, detector)(found).numpy(), scores, rtol=1e-6, atol=1e-9)


class All(torch.nn.Module):
    """The scores of many detectors as one graph, [N, detectors]."""

    def __init__(self, forms):
        super().__init__()
        self.forms = forms

    def forward(self, rows):
        found = {"features": rows[:, :WIDTH].double(), "logits": rows[:, WIDTH:].double()}
        return torch.stack([score(found) for score in self.forms], 1)


def test_every_form_in_onnxruntime(tmp_path):
    detectors = [(name, fitted(name, settings)) for name, settings in VARIANTS]
    rows = np.concatenate([getattr(TEST, part) for part in PARTS], axis=1)
    torch.onnx.export(
        All([form(*pair) for pair in detectors]).eval(),
        (torch.from_numpy(rows[:2]),),
        tmp_path / "all.onnx",
        input_names=["rows"],
        dynamic_shapes={"rows": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "all.onnx")
    for count in (1, 7, len(TEST)):
        found = session.run(None, {"rows": rows[:count]})[0]
        for column, (name, detector) in zip(found.T, detectors, strict=True):
            expected = detector.score(TEST)[:count]
            np.testing.assert_allclose(column, expected, rtol=1e-5, atol=1e-8, err_msg=name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Real digits, a classifier that has not learned, and mahalanobis deployed with it."""
    folder = tmp_path_factory.mktemp("export")
    write_sets(folder)
    with seeded(0):
        modules = {"backbone": build_backbone("resnet-8-4", channels=1), "head": build_head(16, 8)}
    model = folder / "digital-0.safetensors"
    save_model(model, modules, model_metadata(name="digital", head_classes=list(range(8))))
    params = write_params(folder / "params.yaml")
    params.write_text(params.read_text() + "posthoc: {mahalanobis: {ridge: 1.0e-3}}\n")
    embeddings = folder / "e" / "digital.safetensors"
    sets = {"sets": f"{params}:sets", "sets_dir": folder, "id": "digits", "recipe": f"{params}:augment.shots"}
    assert not call(embed.main, model=model, **sets, batch_size=64, shots=2, copies=2, seed=0, out=embeddings)
    chosen = {"detector": "mahalanobis", "alpha": 0.05, "params": params}
    assert not call(deploy.main, model=model, embeddings=embeddings, **chosen, out=folder / "d.safetensors")
    return folder


def exported(folder, name="d.onnx"):
    return call(export.main, detector=folder / "d.safetensors", out=folder / name)


def test_a_whole_scorer_in_onnxruntime(folder, capsys):
    assert exported(folder) == 0
    assert "mahalanobis on digital; score, p_value, is_ood, predicted_class" in capsys.readouterr().out
    scorer = load_deployed(folder / "d.safetensors")
    images = load_tensors(folder / "digits.safetensors")[0]["test.images"]
    images = np.concatenate([load_tensors(folder / "noise.safetensors")[0]["test.images"][:20], images])
    session = onnxruntime.InferenceSession(folder / "d.onnx")
    for count in (1, 7, len(images)):
        expected = scorer.decide(images[:count])
        values, p, is_ood, place = session.run(None, {"images": images[:count]})
        np.testing.assert_allclose(values, expected.scores, rtol=1e-5)
        clear = np.abs(expected.scores - scorer.calibrated.threshold.value) > 1e-3
        np.testing.assert_array_equal(is_ood[clear], expected.is_ood[clear])
        np.testing.assert_allclose(p, expected.p_values, atol=1.5 / 101)  # one image of 100 may change sides
        assert [str(c) for c in place] == expected.predicted
    assert 0 < is_ood.sum() < len(images)


def test_the_graph_says_how_to_use_it(folder):
    assert exported(folder) == 0
    graph = onnx.load(folder / "d.onnx")
    onnx.checker.check_model(graph, full_check=True)
    about = {entry.key: entry.value for entry in graph.metadata_props}
    assert about["input"].startswith("images: uint8 (batch, 1, 8, 8), values 0 to 255, grey")
    assert about["score"] == "larger = more out-of-distribution"
    assert json.loads(about["classes"]) == [str(label) for label in range(8)]
    threshold = load_deployed(folder / "d.safetensors").calibrated.threshold
    assert json.loads(about["threshold"]) == threshold.value and json.loads(about["alpha"]) == 0.05


def test_refuses(folder, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.delitem(FORMS, "mahalanobis")
        assert exported(folder, "none.onnx") == 1
    found = capsys.readouterr().err
    assert "'mahalanobis' cannot be written as ONNX; these can: ash, dice" in found
    with monkeypatch.context() as patch:
        patch.setattr("stages.exporting.LARGEST", 1000)
        assert exported(folder, "none.onnx") == 1
    assert "more than the 2 GiB of one ONNX file" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxscript", None)
        assert exported(folder, "none.onnx") == 1
    assert "pip install -r requirements-onnx.txt" in capsys.readouterr().err
    assert not (folder / "none.onnx").exists()
