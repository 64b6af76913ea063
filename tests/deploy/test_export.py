"""ONNX graphs: every detector's graph against its scores, a whole scorer in onnxruntime on real digits."""

import contextlib
import dataclasses
import io
import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from scipy.stats import false_discovery_control

from sslood.commands import deploy, export
from sslood.core.batches import batches, normalise
from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.deploy.by_class import ByClass
from sslood.deploy.calibrated import KINDS, calibrate
from sslood.deploy.inputs import Inputs
from sslood.deploy.onnx import PValues, Scorer, Together, check_exportable, cut, exportable_names
from sslood.deploy.scorer import load_deployed
from sslood.deploy.triton import save_config
from sslood.nets.inference.extract import extract, outputs
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import save_model
from sslood.nets.networks.heads import build_head
from sslood.ood.kit.outputs import Concepts, Head, Outputs, Prior, part_of
from sslood.ood.measures.conformal import conformal_threshold
from stages import embed
from tests.deploy.model_config import DTYPES, parsed
from tests.kit.registries import DETECTORS, LEARNING, NETWORK, STOCHASTIC, example
from tests.kit.small import call, model_card, write_params, write_sets
from tests.nets.networks.test_published_resnet20 import MEAN, STD, cifar10_test, published
from tests.ood.posthoc.test_head_detectors import TEST, TRAIN, VALIDATION

SETTINGS = {"ssd": {"clusters": 3}}
VARIANTS = [(name, SETTINGS.get(name, {})) for name, kind in LEARNING.items() if not kind.unexportable]
VARIANTS += [("ash", {"variant": variant}) for variant in "spb"]
VARIANTS += [("gen", {"top": 3, "gamma": 0.3}), ("ssd", {"clusters": 3, "tied": True})]
PARTS, EVERY_PART = ("features", "logits"), ("features", "logits", "mu", "log_variance")
# by differences of large numbers, many steep covariances, or the exponential of an exponential
MAGNIFYING = ("rmds", "vim", "gmm", "openmax")


def test_what_cannot_be_exported_says_why():
    """All of posthoc and ssd can; what reads the network or a bank of Gaussians gives a reason."""
    assert {name for name in KINDS if name not in exportable_names()} == {
        *NETWORK,
        *(name for name, kind in STOCHASTIC.items() if kind.unexportable),
    }
    assert {*DETECTORS, "ssd"} <= set(exportable_names())


def embedded(outputs):
    """Outputs that have every part, also the Gaussian of a stochastic model."""
    mu, log_variance = outputs.features[:, :6], np.tanh(outputs.features[:, 6:12])
    prior = Prior(np.log([0.4, 0.6]), *np.random.default_rng(0).normal(size=(2, 2, 6)))
    return dataclasses.replace(outputs, mu=mu, log_variance=log_variance, prior=prior)


class Every(torch.nn.Module):
    """All parts side by side, float64 [N, widths] -> scores [N, detectors]."""

    def __init__(self, scorers, widths):
        super().__init__()
        self.scorers, self.widths = torch.nn.ModuleList(scorers), widths

    def forward(self, rows):
        parts = dict(zip(EVERY_PART, rows.split(self.widths, dim=1), strict=True))
        return torch.stack([scorer(parts) for scorer in self.scorers], 1)


def test_every_graph_gives_the_scores_of_its_detector_or_of_several_combined(tmp_path):
    train, validation, test = map(embedded, (TRAIN, VALIDATION, TEST))
    detectors = [example(name, **settings).fit(train, validation) for name, settings in VARIANTS]
    scorers = [detector.scorer() for detector in detectors]
    expected = [(*variant, one.score(test)) for variant, one in zip(VARIANTS, detectors, strict=True)]
    for by in ("sum", "fisher", "simes"):
        both = {name: example(name) for name in ("energy", "msp")}
        rule = calibrate(both, Inputs(train), Inputs(validation), alpha=0.1, combination=by)
        scorers.append(Together(rule))
        expected.append((rule.name, {}, rule.score(Inputs(test))))
    arrays = [test.need(part).astype(np.float64) for part in EVERY_PART]
    rows, path = np.concatenate(arrays, 1), tmp_path / "every.onnx"
    torch.onnx.export(
        Every(scorers, [array.shape[1] for array in arrays]).eval(),
        (torch.from_numpy(rows),),
        path,
        input_names=["rows"],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    session = onnxruntime.InferenceSession(path)
    for count in (1, len(rows)):
        (found,) = session.run(None, {"rows": rows[:count]})
        for (name, settings, scores), column in zip(expected, found.T, strict=True):
            assert np.std(scores) > 0, name
            np.testing.assert_allclose(
                column, scores[:count], rtol=1e-9, atol=1e-9, err_msg=f"{name} {settings}"
            )


class All(torch.nn.Module):
    """uint8 images -> scores [N, detectors] of many detectors, and what they read."""

    def __init__(self, network, scorers):
        super().__init__()
        self.network, self.scorers = network, torch.nn.ModuleList(scorers)

    def forward(self, images):
        found = outputs(self.network, normalise(images, MEAN, STD))
        wide = {part: value.double() for part, value in found.items()}
        return torch.stack([score(wide) for score in self.scorers], 1), *(found[part] for part in PARTS)


def apart(found, expected):
    """Largest difference in units of max(1, |score|)."""
    return (np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max()


def test_every_detector_in_onnxruntime_on_real_images(mirror, tmp_path):
    """CIFAR-10 through the published ResNet-20: from its features each graph gives the scores here to 1e-6.

    From the images, a network in float32 has errors of its own: MAGNIFYING carry them beyond 1e-5
    here and there alike, which the same network in float64 shows. Where the two libraries' networks differ by
    more than float32 from float64, which depends on the processor, so may the scores.
    """
    network, (images, labels) = published(mirror).eval(), cifar10_test(mirror, 1000)
    arrays = extract(network, batches(images, 250), mean=MEAN, std=STD)
    head = Head(network.head.weight.detach().numpy(), network.head.bias.detach().numpy())
    words = Concepts(*np.random.default_rng(0).normal(size=(2, 10, 64)))
    about = {"classes": 10, "head": head, "concepts": words}
    all_images = Outputs("cifar10", labels=labels, **about, **arrays)
    train, validation, test = (
        part_of(all_images, slice(*ends)) for ends in [(0, 700), (700, 850), (850, None)]
    )
    detectors = {
        name: example(name, **SETTINGS.get(name, {})).fit(train, validation) for name in (*DETECTORS, "ssd")
    }
    graph = All(network, [detector.scorer() for detector in detectors.values()]).eval()
    sample, dynamic = (torch.from_numpy(images[:2]),), {"images": {0: torch.export.Dim("batch")}}
    path = tmp_path / "all.onnx"
    torch.onnx.export(graph, sample, path, input_names=["images"], dynamic_shapes=dynamic, verbose=False)
    session, tests = onnxruntime.InferenceSession(path), images[850:]
    wide = network.double()
    with torch.inference_mode():
        exact = outputs(wide, normalise(torch.from_numpy(tests), MEAN, STD).double())
    exact = Outputs("float64", **{part: exact[part].numpy() for part in PARTS})
    for count in (1, len(tests)):
        scores, features, logits = session.run(None, {"images": tests[:count]})
        theirs = Outputs("onnxruntime", features=features, logits=logits)
        few = part_of(test, slice(0, count))
        further = max(1.0, *(
            np.abs(one - getattr(few, part)).max() / np.abs(getattr(test, part) - getattr(exact, part)).max()
            for part, one in (("features", features), ("logits", logits))
        ))  # fmt: skip
        for (name, detector), column in zip(detectors.items(), scores.T, strict=True):
            assert apart(column, detector.score(theirs)) < 1e-6, name
            if name == "cfood":
                continue  # its scores are steps
            own = apart(detector.score(test), detector.score(exact)) if name in MAGNIFYING else 0.0
            assert apart(column, detector.score(few)) < max(1e-5, 3 * own * further) and own < 1e-3, name


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Real digits, a classifier that has not learned, and mahalanobis deployed with it."""
    folder = tmp_path_factory.mktemp("export")
    write_sets(folder)
    with seeded(0):
        modules = {"backbone": build_backbone("resnet-8-4", channels=1), "head": build_head(16, 8)}
    model = folder / "digital-0.safetensors"
    save_model(model, modules, model_card(name="digital", head_classes=list(range(8))))
    params = write_params(folder / "params.yaml")
    embeddings = folder / "e" / "digital.safetensors"
    sets = {"sets": f"{params}:sets", "sets_dir": folder, "id": "digits", "recipe": f"{params}:augment.shots"}
    settings = {"batch_size": 64, "precision": "float32", "shots": 2, "copies": 2}
    assert not call(embed.main, model=model, **sets, **settings, seed=0, out=embeddings)
    chosen = {
        "detector": "mahalanobis",
        "alpha": 0.05,
        "set": ["mahalanobis.ridge=1e-3", "mahalanobis.beta=1"],
    }
    assert not call(deploy.main, model=model, embeddings=embeddings, **chosen, out=folder / "d.safetensors")
    return folder


def exported(folder, name="d.onnx", **more):
    return call(export.main, detector=folder / "d.safetensors", out=folder / name, **more)


def test_thresholds_by_class_are_in_the_graph(tmp_path):
    random = np.random.default_rng(0)
    calibration, predicted = np.sort(random.normal(size=80)), random.integers(0, 3, 80)
    rule = ByClass.of(calibration, predicted, "abc", 0.1)
    one = calibrate({"energy": example("energy")}, Inputs(TRAIN), Inputs(VALIDATION), alpha=0.1)
    both = dataclasses.replace(one, calibration=calibration, by_class=rule)
    scores, logits = random.normal(size=20), random.normal(size=(20, 3))
    path, given = tmp_path / "p.onnx", (torch.from_numpy(scores), torch.from_numpy(logits))
    torch.onnx.export(PValues(both).eval(), given, path, verbose=False)
    session = onnxruntime.InferenceSession(path)
    (found,) = session.run(None, {"score": scores, "logits": logits})
    np.testing.assert_allclose(found, both.p_values(scores, logits.argmax(1)), rtol=1e-15)
    assert not np.allclose(found, one.p_values(scores))


@pytest.fixture(scope="module")
def graph(folder):
    """The scorer's ONNX file."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert exported(folder, triton=folder / "config.pbtxt") == 0
    assert "mahalanobis on digital; score, p_value, is_ood, predicted_class" in out.getvalue()
    return folder / "d.onnx"


def test_a_whole_scorer_in_onnxruntime(folder, graph):
    scorer = load_deployed(folder / "d.safetensors")
    images = load_tensors(folder / "digits.safetensors")[0]["test.images"]
    images = np.concatenate([load_tensors(folder / "noise.safetensors")[0]["test.images"][:20], images])
    session = onnxruntime.InferenceSession(graph, log_options())
    for count in (1, 7, len(images)):
        expected = scorer.decide(images[:count])
        values, p, is_ood, place = session.run(None, {"images": images[:count]})
        np.testing.assert_allclose(values, expected.scores, rtol=1e-5)
        clear = np.abs(expected.scores - scorer.calibrated.threshold.value) > 1e-3
        np.testing.assert_array_equal(is_ood[clear], expected.is_ood[clear])
        np.testing.assert_allclose(p, expected.p_values, atol=1.5 / 101)  # one image of 100 may change sides
        assert [str(c) for c in place] == expected.predicted
    assert 0 < is_ood.sum() < len(images)


class Given(torch.nn.Module):
    """A score that is given, whatever the image."""

    def __init__(self, scores):
        super().__init__()
        self.scores = scores

    def forward(self, parts):
        return self.scores


def test_an_image_whose_score_is_nan_does_not_pass_as_id(folder, graph):
    deployed = load_deployed(folder / "d.safetensors")
    scorer = Scorer(deployed).eval()
    values = [torch.nan, torch.inf, -torch.inf, deployed.calibrated.threshold.value]
    scorer.detector = Given(torch.tensor(values, dtype=torch.float64))
    images, rates = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0.05, 0.2, 1e-9, 0.0]).double()
    _, p, is_ood, _ = scorer(images, rates[:1], rates[3:])
    assert is_ood.tolist() == [True, True, False, False]
    assert p[:3].tolist() == pytest.approx([1 / 101, 1 / 101, 1.0])
    for alpha, fdr in [
        (rates[:1], rates[1:2]),
        (rates[2:3], rates[3:]),
        (torch.tensor([torch.nan]), rates[3:]),
    ]:
        assert scorer(images, alpha.double(), fdr)[2][0], "NaN is OOD at any rate"
    assert scorer(images, torch.tensor([torch.nan]).double(), rates[3:])[2].all(), (
        "a rate of NaN trusts nothing"
    )


def by_onnxruntime(graph, images, **rates):
    """Return p-values and decisions of the graph; rates: of its optional inputs."""
    session = onnxruntime.InferenceSession(graph, log_options())
    given = {name: np.array([rate]) for name, rate in rates.items()}
    return session.run(["p_value", "is_ood"], {"images": images, **given})


def log_options():
    """Without the warning that an optional input is no constant."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return options


@pytest.fixture(scope="module")
def mixed(folder):
    """Noise and digits, uint8 [70, 1, 8, 8]."""
    parts = [load_tensors(folder / f"{name}.safetensors")[0]["test.images"] for name in ("noise", "digits")]
    return np.concatenate([parts[0][:20], parts[1][:50]])


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.07, 0.29, 0.5, 0.99])
def test_alpha_can_be_changed_after_export(folder, graph, mixed, alpha):
    """As the threshold of that rate on the calibration scores of the file decides."""
    scorer = load_deployed(folder / "d.safetensors")
    scores, threshold = scorer.decide(mixed).scores, conformal_threshold(scorer.calibrated.calibration, alpha)
    _, is_ood = by_onnxruntime(graph, mixed, alpha=alpha)
    clear = np.abs(scores - threshold.value) > 1e-3
    np.testing.assert_array_equal(is_ood[clear], (scores > threshold.value)[clear])
    assert clear.mean() > 0.9
    if alpha == 0.05:
        np.testing.assert_array_equal(by_onnxruntime(graph, mixed)[1], is_ood)


@pytest.mark.parametrize("fdr", [0.02, 0.1, 0.3, 0.9])
def test_a_batch_can_be_judged_together(graph, mixed, fdr):
    """As SciPy's Benjamini-Hochberg procedure judges the graph's p-values, also a batch of one."""
    for images in (mixed, mixed[::-1], mixed[:1], mixed[25:26]):
        p, is_ood = by_onnxruntime(graph, images, fdr=fdr)
        np.testing.assert_array_equal(is_ood, false_discovery_control(p) <= fdr)


def test_rounding_decides_nothing_where_an_adjusted_p_value_is_the_rate():
    p, rate = torch.tensor([2.0, 10.0, 13.0]).double() / 20, torch.tensor([0.3]).double()
    assert cut(p, rate) == 0.1  # 3 * 0.1 is above 0.3 in floats


def test_alpha_and_fdr_are_optional_inputs(graph):
    session = onnxruntime.InferenceSession(graph, log_options())
    assert [one.name for one in session.get_inputs()] == ["images"]
    optional = {one.name: (one.type, one.shape) for one in session.get_overridable_initializers()}
    assert optional == {name: ("tensor(double)", [1]) for name in ("alpha", "fdr")}


def test_the_graph_says_how_to_use_it(folder, graph):
    proto = onnx.load(graph)
    onnx.checker.check_model(proto, full_check=True)
    about = {entry.key: entry.value for entry in proto.metadata_props}
    assert about["input"].startswith("images: uint8 (batch, 1, 8, 8), values 0 to 255, grey")
    assert about["score"] == "larger = more out-of-distribution"
    assert about["alpha_input"].startswith("alpha: float64 (1,), optional, by default 0.05")
    assert about["fdr_input"].startswith("fdr: float64 (1,), optional, by default 0")
    assert json.loads(about["classes"]) == [str(label) for label in range(8)]
    threshold = load_deployed(folder / "d.safetensors").calibrated.threshold
    caught = json.loads(about["catches"])
    assert [one["name"] for one in caught] == ["digits", "heldout", "noise"] and 0 <= caught[1]["share"] <= 1
    assert "only 100 calibration images" in json.loads(about["warnings"])[-1]
    assert json.loads(about["threshold"]) == threshold.value and json.loads(about["alpha"]) == 0.05


def test_refuses(folder, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(KINDS["mahalanobis"], "unexportable", "this test says so")
        assert exported(folder, "none.onnx") == 1
    found = capsys.readouterr().err
    assert "'mahalanobis' cannot be written as ONNX, since this test says so; these can: ash, cfood" in found
    with monkeypatch.context() as patch:
        patch.setattr("sslood.deploy.onnx.LARGEST", 1000)
        assert exported(folder, "none.onnx") == 1
    assert "more than the 2 GiB of one ONNX file" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "onnxscript", None)
        assert exported(folder, "none.onnx") == 1
    assert "pip install -r requirements-onnx.txt" in capsys.readouterr().err
    assert not (folder / "none.onnx").exists()
    scorer = load_deployed(folder / "d.safetensors")
    by_cauchy = dataclasses.replace(scorer.calibrated, combination="cauchy")
    with pytest.raises(InputError, match="since ONNX runtimes lack the arctangent .*by sum, fisher or simes"):
        check_exportable(dataclasses.replace(scorer, calibrated=by_cauchy), "d.safetensors")


def described(tensor):
    """Return type and shape of an input or output of a config.pbtxt, as onnxruntime calls them."""
    kinds = tensor.DESCRIPTOR.fields_by_name["data_type"].enum_type.values_by_number
    shape = tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims
    return DTYPES[kinds[tensor.data_type].name], list(shape)


@pytest.mark.parametrize("batch", [64, 0])
def test_the_configuration_for_triton_is_that_of_the_graph(folder, graph, batch):
    """By the rules of its ONNX Runtime backend: the batch is no dimension, or images are the first one."""
    if not batch:
        save_config(folder / "config.pbtxt", graph, batch)
    config, session = parsed(folder / "config.pbtxt"), onnxruntime.InferenceSession(graph, log_options())
    said = {one.name: described(one) for one in [*config.input, *config.output]}
    tensors = {one.name: (one.type, one.shape) for one in [*session.get_inputs(), *session.get_outputs()]}
    expected = {name: (kind, [-1, *shape[1:]][bool(batch) :]) for name, (kind, shape) in tensors.items()}
    if not batch:
        expected |= {one.name: (one.type, one.shape) for one in session.get_overridable_initializers()}
    assert said == expected and config.max_batch_size == batch and config.platform == "onnxruntime_onnx"
    assert {one.name for one in config.input if one.optional} == (set() if batch else {"alpha", "fdr"})
    assert config.HasField("dynamic_batching") == bool(batch)
    about = {entry.key: entry.value.string_value for entry in config.parameters}
    assert about == session.get_modelmeta().custom_metadata_map


def test_what_is_no_graph_is_named(tmp_path):
    (tmp_path / "x.onnx").write_bytes(b"no graph")
    for name in ("x.onnx", "absent.onnx"):
        with pytest.raises(InputError, match=f"{name}: cannot be read as ONNX"):
            save_config(tmp_path / "config.pbtxt", tmp_path / name, 64)
