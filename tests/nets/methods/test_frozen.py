"""The head alone against outliers: a frozen backbone passes each image, and each kept view, once."""

import pytest
import torch

from sslood.core.files import load_tensors, read_metadata
from sslood.core.machine import machine
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.frozen import pick
from sslood.nets.methods.outliers import Outliers, OutlierSettings
from sslood.nets.methods.supervised import separation
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.engine import Engine
from stages.energy import main
from tests.kit.small import call
from tests.nets.methods.test_energy import SECTION, constants, run, write_classifier

assert run  # the fixture
MOVED = AugmentSettings(pad=1, flip=0.5)
N, M, TUNING = 40, 56, 24  # of ID train (and validation), outliers, tuning set


@pytest.fixture
def build():
    """A call that returns the task of a head, on images that do not change from call to call."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2 * N + M + TUNING, 1, 8, 8), dtype=torch.uint8, generator=generator)
    train, validation, others, tuning = images.split((N, N, M, TUNING))
    own = [ResidentSet(part, torch.arange(N) % 4, "cpu") for part in (train, validation)]
    auxiliary = ResidentSet(others, torch.full((M,), -1), "cpu")

    def task(views, recipe=MOVED, mode="head", **changed):
        with seeded(0):
            network = build_backbone("resnet-8-4", channels=1)
            model = Model(network, build_head(network.feature_dim, 4))
        given = {**SECTION, "epochs": 3, "batch_size": 8, "auxiliary_batch_size": 16, "lr": 0.1, **changed}
        settings = OutlierSettings(**given, views=views, loss="oe")
        return Outliers(
            model, *own, auxiliary, tuning, mode=mode, fresh_head=False, settings=settings, recipe=recipe,
            preprocessing={"mean": [0.5], "std": [0.25]}, label="toy", seed=0,
            machine=machine(settings.precision),
        )  # fmt: skip

    return task


def weights(task):
    return torch.cat([value.flatten() for value in task.model.need_head().parameters()]).detach()


def trained(task):
    rows = Engine(task).train(None)
    return weights(task), rows


def test_without_augmentation_kept_views_train_the_same_head(build):
    """All views are the image then, and batches are drawn alike; only the order of sums differs."""
    start = weights(build(0))
    heads = [trained(build(views, AugmentSettings())) for views in (0, 1, 3)]
    expected, rows = heads[0]
    assert (expected - start).abs().max() > 1e-3
    for found, curves in heads[1:]:
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        assert [row["loss"] for row in curves] == pytest.approx([row["loss"] for row in rows], abs=1e-4)


def test_each_image_of_a_batch_is_one_of_its_views(build):
    task = build(2)
    task.begin_epoch(0)
    indices = [torch.tensor([3, 0, 7]), torch.tensor([3, 3, 1])]
    batches = [features for features, _ in task.batches(iter(indices))]
    expected = []
    for view in range(2):
        generator = task.views.generator("id", "view", view)
        images = torch.cat([task.views(part, generator)[0] for part in task.data.images.split(8)])
        with torch.no_grad():
            expected.append(task.model.eval().features(images))
    both = torch.stack(expected)
    assert (both[0] - both[1]).abs().max() > 1e-3
    which = set()
    for index, features in zip(indices, batches, strict=True):
        apart = (both[:, index] - features[: len(index)]).abs().amax(2)
        assert (apart.amin(0) < 1e-5).all()
        which |= set(apart.argmin(0).tolist())
    assert which == {0, 1}


@pytest.mark.parametrize(
    ("views", "passed"), [(0, 3 * (N + 16 * N // 8)), (2, 2 * (N + M)), (4, 4 * (N + M))]
)
def test_the_backbone_passes_views_as_often_as_promised_and_clean_images_once(build, views, passed):
    task, seen = build(views), []
    task.model.backbone.register_forward_hook(lambda module, given, result: seen.append(len(given[0])))
    Engine(task).train(None)
    assert sum(seen) == passed + N + TUNING  # of three epochs, each watched on validation and tuning set
    task.predict(task.validation.images)
    assert sum(seen) == passed + N + TUNING


@pytest.mark.parametrize("views", [0, 2])
def test_the_frozen_backbone_stays_bit_equal(build, views):
    task = build(views)
    before = {key: value.clone() for key, value in task.model.backbone.state_dict().items()}
    Engine(task).train(None)
    for key, value in task.model.backbone.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_logits_of_clean_images_are_those_of_the_model(build):
    task = build(2)
    Engine(task).train(None)
    images = task.views.clean(task.validation.images)
    with torch.no_grad():
        torch.testing.assert_close(task.predict(task.validation.images), task.model.eval()(images))


def test_a_whole_network_always_sees_new_views(build):
    found = [trained(build(views, mode="full"))[0] for views in (0, 2)]
    assert torch.equal(*found)


def test_views_are_picked_evenly():
    features = torch.arange(4.0).view(4, 1, 1).expand(4, 10, 1)
    generator = torch.Generator().manual_seed(0)
    drawn = pick(features, torch.zeros(4000, dtype=torch.long), generator).flatten()
    counts = torch.bincount(drawn.long(), minlength=4)
    assert (counts - 1000).abs().max() < 5 * (4000 * 0.25 * 0.75) ** 0.5  # five standard deviations


def test_an_interrupted_head_goes_on_with_the_same_bytes(run, tmp_path, monkeypatch):
    write_classifier(run["init_model"])
    run |= {"mode": "head", "views": 2, "epochs": 3, "save_every": 1}
    whole = run | {"out": run["out"].with_name("whole.safetensors")}
    assert call(main, **whole) == 0
    seen = []

    def interrupted(*scores):
        seen.append(scores)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return separation(*scores)

    with monkeypatch.context() as patch:
        patch.setattr("sslood.nets.methods.outliers.separation", interrupted)
        assert call(main, **run) == 130 and not run["out"].exists()
    assert call(main, **run) == 0
    assert run["out"].read_bytes() == whole["out"].read_bytes()
    assert read_metadata(run["out"], kind="model")["settings"]["views"] == 2


def test_candidates_share_what_the_backbone_made_and_end_as_each_alone(run, tmp_path):
    write_classifier(run["init_model"])
    run |= {"mode": "head", "views": 2, "epochs": 2}
    alone = []
    for weight in (0.1, 1.0):
        run["constants"] = constants(tmp_path, loss="oe", weight=weight)
        assert call(main, **run) == 0
        alone.append(load_tensors(run["out"])[0]["head.weight"])
    run["constants"] = constants(tmp_path, loss="oe", candidates={"weight": [0.1, 1.0]})
    assert call(main, **run) == 0
    tried = read_metadata(run["out"], kind="model")["settings"]["tried"]
    best = max(range(2), key=lambda place: tried[place]["kept"]["validation_oscr"])
    assert (load_tensors(run["out"])[0]["head.weight"] == alone[best]).all()


def test_views_below_zero_are_refused(run, capsys):
    assert call(main, **{**run, "views": -1}) != 0
    assert "views" in capsys.readouterr().err
