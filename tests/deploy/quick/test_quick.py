"""Pictures judged through onnxruntime: the decisions of torch, also where rounding could change them."""

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

from sslood.core.batches import batches
from sslood.deploy import pictures as module
from sslood.deploy.calibrated import calibrate
from sslood.deploy.engine import worker
from sslood.deploy.inputs import Inputs
from sslood.deploy.pictures import decide_pictures, read_pictures
from sslood.deploy.quick.graph import Unsupported, graph_of
from sslood.deploy.quick.quick import FIRST, quick
from sslood.deploy.scorer import Deployed
from sslood.nets.inference.extract import extract
from sslood.nets.inference.looks import Looking, Looks
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.ood.kit.outputs import Outputs
from tests.kit.registries import example
from tests.kit.small import model_card

SIZE, COUNT = 96, 66


def run(model: bytes, images: torch.Tensor) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"images": one[None].numpy()})[0] for one in images])


def used(network: nn.Module) -> nn.Module:
    """Give the batch norms of a network statistics that are not 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean = 0.1 * torch.randn(part.num_features, generator=generator)
            part.running_var = 0.5 + torch.rand(part.num_features, generator=generator)
    return network.eval()


@pytest.mark.parametrize(
    ("arch", "size"),
    [
        ("efficientnet_lite-0", 32),
        ("efficientnet_lite-0", 43),  # where TensorFlow's padding is odd in one layer and even in the next
        ("wideresnet-10-1", 16),
        ("densenet-16-4", 16),
    ],
)
def test_the_graph_computes_what_the_network_does(arch, size):
    with seeded(1):
        network = used(build_backbone(arch, channels=3))
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = network(images).numpy()
    found = run(graph_of(network, 3, size), images)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


def test_layers_of_other_libraries():
    layers = (nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1), nn.Dropout(0.5))
    network = used(nn.Sequential(*layers, nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten()))
    images = torch.randn(2, 3, 17, 17)
    with torch.inference_mode():
        expected = network(images).numpy()
    found = run(graph_of(network, 3, 17), images)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_what_has_no_counterpart_is_left_to_torch():
    for network in (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU()),
        nn.Sequential(nn.Conv2d(3, 4, 3, padding_mode="circular")),
        nn.Sequential(nn.AdaptiveAvgPool2d(2)),
        build_backbone("resnet-8-4", channels=3),  # its shortcut cuts channels by their number
    ):
        with pytest.raises(Unsupported):
            graph_of(network.eval(), 3, 32)


class Oddly(nn.Module):
    """A convolution that is given its images by name, or whose output comes in a dictionary."""

    def __init__(self, by_name):
        super().__init__()
        self.layer, self.by_name = nn.Conv2d(3, 4, 3), by_name

    def forward(self, images):
        return self.layer(input=images) if self.by_name else {"features": self.layer(images)}


@pytest.mark.parametrize("by_name", [True, False])
def test_a_network_with_another_way_of_passing_images_is_left_to_torch(by_name):
    with pytest.raises(Unsupported):
        graph_of(Oddly(by_name).eval(), 3, 32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    for number in range(COUNT):
        small = random.integers(0, 256, (5, 5, 3), np.uint8)
        Image.fromarray(small).resize((SIZE, SIZE)).save(folder / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def parts(folder):
    """A tiny network, its metadata, and k nearest neighbours with a threshold for each class, calibrated on
    the very pictures to be judged."""
    card = model_card(size=SIZE, channels=3, mean=[0.5] * 3, std=[0.2, 0.25, 0.3])
    metadata = card.metadata() | {"classes": ["a", "b"], "head_classes": [0, 1]}
    with seeded(0):
        layers = nn.Conv2d(3, 8, 5, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU6()
        backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(1))
        model = Model(used(backbone), build_head(16, 2)).eval()
    ((_, images),) = read_pictures(sorted(folder.iterdir()), module.chain_of(metadata))
    scale = {"mean": card.mean, "std": card.std}
    gap = np.diff(extract(model, batches(images, 4), **scale)["logits"]).mean()
    model.head.bias.data += torch.tensor([gap / 2, -gap / 2])  # each class is the likeliest of some
    arrays = extract(model, batches(images, 4), **scale)
    known = Inputs(Outputs("known", **arrays))
    features = arrays["features"][::2] + 0.01
    train = Inputs(Outputs("train", features=features, labels=np.zeros(len(features), np.int64)))
    return (
        model,
        metadata,
        calibrate({"knn": example("knn", k=2)}, train, known, alpha=0.2, per_class=["a", "b"]),
    )


@pytest.fixture
def scorer(parts):
    return Deployed(*parts)


def decided(scorer, folder, monkeypatch, fast):
    with monkeypatch.context() as patch:
        if not fast:
            patch.setattr(module, "quick", lambda *_: None)
        return decide_pictures(scorer, sorted(folder.iterdir()), batch_size=40)


def test_p_values_are_torchs_where_a_rank_could_change(scorer, folder, monkeypatch):
    """Each picture has the score of a calibration image: rounding decides which is larger."""
    paths, slow = decided(scorer, folder, monkeypatch, False)
    again, fast = decided(scorer, folder, monkeypatch, True)
    assert paths == again and 0 < sum(name == "a" for name in slow.predicted) < COUNT
    np.testing.assert_array_equal(fast.p_values, slow.p_values)
    np.testing.assert_array_equal(fast.is_ood, slow.is_ood)
    assert fast.predicted == slow.predicted
    np.testing.assert_allclose(fast.scores, slow.scores, rtol=1e-4)
    assert quick(scorer, COUNT).again == COUNT


def test_other_pictures_are_judged_once(scorer, folder, monkeypatch, tmp_path):
    for path in folder.iterdir():
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(tmp_path / path.name)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    unreadable = []
    read, fast = decide_pictures(scorer, sorted(tmp_path.iterdir()), unreadable=unreadable)
    assert unreadable == [tmp_path / "broken.png"] and len(read) == COUNT
    assert quick(scorer, COUNT).again < COUNT / 4
    unreadable.clear()
    monkeypatch.setattr(module, "quick", lambda *_: None)
    _, slow = decide_pictures(scorer, sorted(tmp_path.iterdir()), unreadable=unreadable)
    np.testing.assert_array_equal(fast.p_values, slow.p_values)
    np.testing.assert_allclose(fast.scores, slow.scores, rtol=1e-4)


def test_a_runtime_that_computes_something_else_is_not_believed(scorer, folder, monkeypatch):
    _, slow = decided(scorer, folder, monkeypatch, False)
    opened = quick(scorer, COUNT)
    right = opened.session
    opened.session = type("Wrong", (), {"run": lambda self, *given: [right.run(*given)[0][:, ::-1].copy()]})()
    _, found = decided(scorer, folder, monkeypatch, True)
    assert not opened.usable
    np.testing.assert_array_equal(found.p_values, slow.p_values)


def test_a_graph_that_the_runtime_refuses_is_left_to_torch(scorer, monkeypatch):
    monkeypatch.setattr("sslood.deploy.quick.graph.graph_of", lambda *_: b"no graph")
    assert quick(scorer, COUNT) is None


def test_who_is_left_to_torch(scorer, monkeypatch):
    assert quick(scorer, COUNT) is quick(scorer, COUNT) is not None and FIRST < COUNT
    assert quick(scorer, 10) is None
    small = Deployed(scorer.model, scorer.metadata | {"size": 32}, scorer.calibrated)
    jumps = Deployed(
        scorer.model,
        scorer.metadata,
        type(scorer.calibrated)(**{**vars(scorer.calibrated), "detectors": {"ash": None}}),
    )
    for other in (small, jumps, Deployed(None, scorer.metadata, scorer.calibrated)):
        assert quick(other, COUNT) is None
    monkeypatch.setattr("sslood.deploy.quick.quick.find_spec", lambda name: None)
    assert quick(scorer, COUNT) is None


def test_a_worker_of_bulk_decides_as_torch_does(scorer, folder, monkeypatch):
    """The first batch is judged through the runtime, all of it again by torch; the second is too small."""
    monkeypatch.setattr(worker, "load_deployed", lambda *_: scorer)
    chain, judge = worker.Deciding("any").open()
    ((_, images),) = read_pictures(sorted(folder.iterdir()), chain)
    slow = scorer.decide(images)
    found = judge(images)
    assert found["p_value"].to_pylist() == slow.p_values.tolist()
    assert found["is_ood"].to_pylist() == slow.is_ood.tolist()
    assert found["predicted_class"].to_pylist() == slow.predicted
    assert judge(images[:3])["score"].to_pylist() == scorer.decide(images[:3]).scores.tolist()
    assert quick(scorer, COUNT).again == COUNT


@pytest.mark.parametrize("looks", [Looks(mirror=True), Looks(shift=2), Looks(mirror=True, shift=1)])
def test_a_network_that_sees_images_more_than_once(looks):
    with seeded(1):
        network = Looking(used(build_backbone("wideresnet-10-1", channels=3)), looks).eval()
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        expected = network(images).numpy()
    found = run(graph_of(network, 3, 16), images)
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())
