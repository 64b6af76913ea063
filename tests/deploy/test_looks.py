"""A detector that was fitted to features of several looks sees pictures so, wherever it is used."""

import numpy as np
import onnxruntime
import pytest
import torch

from sslood.commands import export
from sslood.core.files import load_tensors
from sslood.deploy.engine.worker import Embedding
from sslood.deploy.maps.reading import Reader
from sslood.deploy.scorer import load_deployed
from sslood.nets.inference.looks import Looking, seen_once
from sslood.ood.kit.outputs import read_embeddings
from stages import embed
from tests.deploy.test_deployment import deployed, scored, write_deployment
from tests.kit.small import call


@pytest.fixture(
    scope="module", params=[{"mirror": True}, {"mirror": True, "shift": 1}, {"shift": 2}], ids=str
)
def looks(request):
    return request.param


@pytest.fixture(scope="module")
def folder(looks, tmp_path_factory):
    """The deployment of digits with embeddings of these looks beside those of one, and `knn` on them."""
    folder = write_deployment(tmp_path_factory.mktemp("mirrored"))
    params = folder / "params.yaml"
    given = {key: None if value is True else value for key, value in looks.items()}  # None: a flag
    status = call(
        embed.main, model=folder / "digital-0.safetensors", sets=f"{params}:sets", sets_dir=folder,
        id="digits", recipe=f"{params}:augment.shots", batch_size=64, precision="float32",
        shots=2, copies=2, seed=0, **given, out=folder / "twice" / "digital.safetensors",
    )  # fmt: skip
    assert status == 0
    assert deployed(folder, "knn", **twice(folder), maps=None, sets_dir=folder) == 0
    return folder


def twice(folder):
    return {"embeddings": folder / "twice" / "digital.safetensors"}


@pytest.fixture(scope="module")
def images(folder):
    return load_tensors(folder / "heldout.safetensors")[0]["test.images"]


def test_the_embeddings_say_it_and_those_of_one_look_do_not(folder, looks):
    ours, theirs = (read_embeddings(folder / part, "digital", 0) for part in ("twice", "e"))
    assert {key: ours.metadata.get(key) for key in ("mirror", "shift")} == {
        "mirror": None,
        "shift": None,
    } | looks
    assert not {"mirror", "shift"} & set(theirs.metadata)
    both = [one.outputs("digits", "test").features for one in (ours, theirs)]
    assert np.abs(both[0] - both[1]).max() > 1e-3


def test_pictures_have_the_scores_of_the_embeddings(folder, tmp_path):
    status, rows = scored(folder, tmp_path)
    assert status == 0
    found = np.array([float(row["score"]) for row in rows])
    outputs, detector = (
        read_embeddings(folder / "twice", "digital", 0),
        load_deployed(folder / "d.safetensors").calibrated.detector,
    )
    expected = [detector.score(outputs.outputs(name, "test"))[:60] for name in ("digits", "heldout")]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=2e-3, atol=1e-4)


def test_a_mirror_image_has_the_score_of_the_image(folder, images, looks):
    if looks != {"mirror": True}:
        return  # what a shift loses at a border depends on the side
    scorer = load_deployed(folder / "d.safetensors")
    once, back = (scorer.decide(np.ascontiguousarray(x)).scores for x in (images, images[:, :, :, ::-1]))
    np.testing.assert_allclose(once, back, rtol=1e-5)


def test_so_does_the_exported_graph(folder, images, tmp_path):
    assert call(export.main, detector=folder / "d.safetensors", out=tmp_path / "d.onnx") == 0
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(tmp_path / "d.onnx", options)
    expected = load_deployed(folder / "d.safetensors").decide(images)
    np.testing.assert_allclose(session.run(["score"], {"images": images})[0], expected.scores, rtol=1e-5)


def test_so_do_vectors_that_the_detector_packs(folder, images):
    _, judge = Embedding(str(folder / "d.safetensors")).open()
    found = np.array(judge(images)["features"].to_pylist())
    expected = read_embeddings(folder / "twice", "digital", 0).outputs("heldout", "test").features
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_heat_maps_are_of_the_picture_and_neighbours_of_both_looks(folder, images):
    scorer = load_deployed(folder / "d.safetensors")
    assert isinstance(scorer.network.backbone, Looking)
    features, vectors = Reader(scorer.network, scorer.metadata)(images[:5])
    of_one, same = Reader(seen_once(scorer.network), scorer.metadata)(images[:5])
    np.testing.assert_array_equal(vectors, same)
    assert np.abs(features - of_one).max() > 1e-3
    expected = read_embeddings(folder / "twice", "digital", 0).outputs("heldout", "test").features[:5]
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_a_detector_that_asks_the_network_beside_it_sees_pictures_once(folder, images):
    """In a sum its scores are what it gives alone, fitted to images without any embeddings."""
    odin = {"sets_dir": folder, "set": ["odin.temperature=1000", "odin.epsilon=0.01"]}
    assert deployed(folder, "odin", out="alone.safetensors", **odin) == 0  # given embeddings of one look
    both = {"detector": ["knn", "odin"], "combine": "sum", "set": ["knn.k=5", *odin["set"]]}
    assert deployed(folder, "", out="both.safetensors", **(twice(folder) | odin | both)) == 0
    alone, together = (load_deployed(folder / f"{name}.safetensors") for name in ("alone", "both"))
    calibrated = together.calibrated
    seen: dict[str, np.ndarray] = {}
    for name, detector in calibrated.detectors.items():
        score = detector.score
        detector.score = lambda *given, name=name, score=score: seen.setdefault(name, score(*given))
    together.decide(images)
    np.testing.assert_allclose(seen["odin"], alone.decide(images).scores, rtol=1e-5)
    knn = load_deployed(folder / "d.safetensors").decide(images).scores
    np.testing.assert_allclose(seen["knn"], knn, rtol=1e-5)


def test_the_weights_in_the_file_are_those_of_the_model(folder, looks):
    """A file of an older version of this library would see pictures once; the fixed images tell."""
    arrays, content = load_tensors(folder / "d.safetensors", kind="detector")
    model, _ = load_tensors(folder / "digital-0.safetensors", kind="model")
    assert {key.removeprefix("model.") for key in arrays if key.startswith("model.")} == set(model)
    assert looks.items() <= content["model_metadata"].items()
    torch.testing.assert_close(arrays["model.head.weight"], model["head.weight"])
