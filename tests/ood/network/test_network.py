"""Detectors that ask the network, against pytorch-ood, transcribed formulas and finite differences."""

import numpy as np
import pytest
import torch
from pytorch_ood import detector as peer
from pytorch_ood.detector import Gram as TheirGram
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch import nn

from sslood.core.errors import InputError
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.ood.kit.network_detector import BATCH, Network
from sslood.ood.measures.metrics import ood_metrics
from sslood.ood.network.gram import Gram, GramSettings, gram_rows
from sslood.ood.network.odin import ODIN, ODINSettings
from sslood.ood.network.rotation import Rotation
from sslood.ood.network.rotation_uniform import RotationUniform
from sslood.ood.network.rotpred import RotPred
from sslood.views.opened import layers, open_model
from tests.kit.network import (
    IMAGES,
    MEAN,
    STD,
    TEST,
    VANE,
    Small,
    Weathervane,
    normalised,
    opened,
    pictures,
    small_model,
)
from tests.kit.registries import NETWORK


@pytest.fixture(scope="module")
def small():
    model = small_model()
    return model, opened(model)


@pytest.mark.parametrize("temperature, epsilon", [(1.0, 0.002), (1000.0, 0.0014), (10.0, 0.0)])
def test_odin_equals_pytorch_ood(small, temperature, epsilon):
    model, network = small
    ours = ODIN(ODINSettings(temperature, epsilon)).fit(network, IMAGES).score(network, TEST)
    theirs = peer.ODIN(model, eps=epsilon, temperature=temperature, norm_std=STD)
    uniform = 1 / model(normalised(TEST[:1])).shape[1]  # ours is measured from it
    np.testing.assert_allclose(ours - uniform, theirs.predict(normalised(TEST)).numpy(), rtol=1e-5)


def test_odins_step_makes_the_prediction_more_likely(small):
    """By finite differences in float64: no pixel goes the other way."""
    model, network = small
    image = normalised(TEST[:1]).double()
    wide = Small().double().requires_grad_(False)
    wide.load_state_dict(model.state_dict())

    def loss(x):
        return nn.functional.cross_entropy(wide(x) / 1000, wide(image).argmax(1))

    x = image.flatten()
    moved = [(loss((x + h * e).view_as(image)) - loss((x - h * e).view_as(image))) / (2 * h)
             for h in [1e-5] for e in torch.eye(len(x)).double()]  # fmt: skip
    expected = image - 0.002 / torch.tensor(STD).double().view(1, -1, 1, 1) * torch.sign(
        torch.stack(moved).view_as(image)
    )
    score = ODIN(ODINSettings(1000.0, 0.002)).fit(network, IMAGES).score(network, TEST[:1])
    p = (wide(expected) / 1000).softmax(1)
    assert score[0] == pytest.approx(1 / p.shape[1] - p.max().item(), rel=1e-3)


def test_epsilon_is_the_best_on_validation_and_the_smallest_of_equals(small):
    _, network = small
    epsilons = ODIN.space["epsilon"]
    detector = ODIN(ODINSettings(100.0)).fit(network, IMAGES)
    chosen = detector.chosen["epsilon"]
    for epsilon in epsilons:
        alone = ODIN(ODINSettings(100.0, epsilon)).fit(network, IMAGES)
        scores = (alone.score(network, IMAGES[split]) for split in ("validation", "tuning"))
        assert chosen["candidates"][str(epsilon)] == ood_metrics(*scores)["auroc"]
    assert chosen["candidates"][str(chosen["value"])] == max(chosen["candidates"].values())
    same = {**IMAGES, "tuning": IMAGES["validation"]}
    assert ODIN(ODINSettings(100.0)).fit(network, same).chosen["epsilon"]["value"] == 0.0


def test_gram_rows_are_sums_of_gram_matrices():
    maps = torch.randn(3, 4, 5, 2, generator=torch.Generator().manual_seed(0))
    found = gram_rows(maps, 3).numpy().reshape(3, 3, 4)
    for n in range(3):
        f = maps[n].double().numpy().reshape(4, 10)
        for p in (1, 2, 3):
            rows = ((f**p) @ (f**p).T).sum(1)
            expected = np.sign(rows) * np.abs(rows) ** (1 / p)
            np.testing.assert_allclose(found[n, p - 1], expected, rtol=1e-12)


def test_gram_equals_pytorch_ood(small):
    model, network = small
    ours = Gram(GramSettings(powers=3)).fit(network, IMAGES)
    theirs = TheirGram(model.head, [model.first, model.second], 4, [1, 2, 3]).to("cpu")
    theirs.validation_fraction = 0
    x = normalised(IMAGES["train"])
    theirs.fit(torch.utils.data.DataLoader([*zip(x, model(x).argmax(1), strict=True)], batch_size=100))
    for layer, width in enumerate((5, 7)):
        for end, bounds in (("low", theirs.feature_min), ("high", theirs.feature_max)):
            expected = torch.stack(bounds[layer], 1).numpy().reshape(4, 3 * width)
            np.testing.assert_allclose(ours.state[f"{end}.{layer}"], expected, rtol=1e-4, atol=1e-4)
    # theirs has no split of its own to normalise on: give it the mean deviation of our validation images
    held = normalised(IMAGES["validation"])
    theirs.layer_norm = torch.tensor([torch.inf, torch.inf])
    norms = []
    for layer in range(2):
        theirs.layer_norm[layer] = 1
        norms.append(theirs.predict(held).mean())
        theirs.layer_norm[layer] = torch.inf
    np.testing.assert_allclose(ours.state["expected"], norms, rtol=1e-3)
    theirs.layer_norm = torch.stack(norms)
    far = pictures(50, 5, 30)
    found, expected = ours.score(network, far), theirs.predict(normalised(far)).numpy()
    np.testing.assert_allclose(found, expected, rtol=2e-3)
    assert ood_metrics(ours.score(network, TEST), found)["auroc"] > 0.9


def test_gram_streams_and_serves_classes_that_are_never_predicted(small):
    model, network = small
    detector = Gram(GramSettings(powers=2)).fit(network, IMAGES)
    assert len(IMAGES["train"]) > 2 * BATCH
    x = normalised(IMAGES["train"])
    rows, predicted = gram_rows(model.first(x), 2).numpy(), model(x).argmax(1).numpy()
    for c in range(4):
        np.testing.assert_allclose(detector.state["low.0"][c], rows[predicted == c].min(0), rtol=1e-6)

    def one_class(x, read):
        found, logits = network.maps(x, read)
        return found, logits + torch.tensor([0, 1e6, 0, 0])

    lonely = Network(MEAN, STD, maps=one_class)
    state = Gram(GramSettings(powers=2)).fit(lonely, IMAGES).state
    assert all(np.isfinite(array).all() for array in state.values())
    np.testing.assert_array_equal(state["high.1"][0], state["high.1"][1])


def test_rotation_scores_are_their_formulas():
    x = normalised(TEST).double().numpy()
    cross, divergence = [], []
    for r in range(4):
        turned = np.ascontiguousarray(np.rot90(x, r, (2, 3)))
        logs = log_softmax(Weathervane()(torch.from_numpy(turned)).numpy(), axis=1)
        cross.append(-logs[:, r])
        divergence.append([entropy([0.25] * 4, row) for row in np.exp(logs)])
    np.testing.assert_allclose(
        Rotation().fit(VANE, IMAGES).score(VANE, TEST), np.mean(cross, 0), rtol=1e-5, atol=1e-6
    )
    found = RotationUniform().fit(VANE, IMAGES).score(VANE, TEST)
    np.testing.assert_allclose(found, -np.mean(divergence, 0), rtol=1e-4, atol=1e-6)


def test_rotpred_is_the_rotation_score_less_the_divergence_of_the_classes(small):
    network = Network(MEAN, STD, gradients=small[1].gradients, rotations=VANE.rotations)
    classes = softmax(small[1].gradients(normalised(TEST)).detach().double().numpy(), axis=1)
    decided = [entropy([0.25] * 4, row) for row in classes]
    expected = Rotation().fit(VANE, IMAGES).score(VANE, TEST) - decided
    np.testing.assert_allclose(RotPred().fit(network, IMAGES).score(network, TEST), expected, rtol=1e-5)
    for lacking, what in ((VANE, "gradients"), (Network(MEAN, STD, small[1].gradients), "rotations")):
        with pytest.raises(InputError, match=f"RotPred reads {what}, which this model does not have"):
            RotPred().fit(lacking, IMAGES)


def test_images_that_show_their_turn_are_less_ood():
    upright = pictures(50, 0, 40)
    upright[:, :, 0] = 255
    for kind in (Rotation, RotationUniform):
        detector = kind().fit(VANE, IMAGES)
        scores = (detector.score(VANE, images) for images in (upright, pictures(50, 1, 40)))
        assert ood_metrics(*scores)["auroc"] == 1.0


@pytest.mark.parametrize("name", NETWORK)
def test_contract(name):
    network = opened(small_model().double(), VANE.rotations)
    detector = NETWORK[name]()
    counts = []
    with pytest.raises(InputError, match="must be fitted"):
        detector.score(network, TEST)
    assert "test" not in detector.fitted_on and set(detector.fitted_on) <= set(IMAGES)
    detector.fit(network, {split: IMAGES[split] for split in detector.fitted_on}, counts.append)
    assert sum(counts) == sum(len(IMAGES[split]) for split in detector.fitted_on)
    scores = detector.score(network, TEST)
    assert scores.shape == (60,) and scores.dtype == np.float64 and np.isfinite(scores).all()
    alone = [detector.score(network, TEST[i : i + 1])[0] for i in range(10)]
    np.testing.assert_allclose(alone, scores[:10], rtol=1e-4, atol=1e-6, err_msg="depends on the batch")
    again = NETWORK[name](detector.settings).restore(detector.state, detector.chosen)
    np.testing.assert_array_equal(again.score(network, TEST), scores)
    assert "auto" not in vars(detector.settings).values()
    with pytest.raises(InputError, match=f"reads {detector.reads[0]}, which this model does not have"):
        detector.score(Network(MEAN, STD), TEST)


def test_refuses():
    with pytest.raises(InputError, match="temperature must be above 0"):
        ODINSettings(0.0)
    with pytest.raises(InputError, match="powers must be at least 1"):
        GramSettings(0)
    with pytest.raises(InputError, match="epsilon must be at least 0"):
        ODINSettings(epsilon=-0.1)


@pytest.mark.parametrize("arch, count", [("resnet-8-4", 10), ("wideresnet-10-1", 12), ("densenet-10-6", 14)])
def test_an_opened_model_shows_its_layers(arch, count):
    with seeded(0):
        model = Model(build_backbone(arch, channels=1))
        model.head = build_head(model.backbone.feature_dim, 3)
    model.train()
    network = open_model(model, mean=[0.3], std=[0.4], device="cpu")
    assert not model.training and network.rotations is None
    x = normalised(TEST[:5])[:, :1]
    found, logits = network.maps(x, torch.clone)
    torch.testing.assert_close(logits, model(x))
    assert len(found) == len(layers(model.backbone)) == count
    torch.testing.assert_close(found[0], model.backbone.conv1(x))
    assert not any(module._forward_hooks for module in model.modules())
    if arch == "resnet-8-4":
        torch.testing.assert_close(found[-1].mean((2, 3)), model.features(x))
