import math
from pathlib import Path

import pytest
import torch

from sslood.core.errors import InputError
from sslood.core.machine import Machine
from sslood.data.images.augment import AugmentSettings
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.classify import Classify, ClassifySettings
from sslood.nets.methods.supervised import accuracy, endless
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from sslood.nets.training.curves import save_curves
from sslood.nets.training.engine import Engine
from sslood.nets.training.views import Views
from tests.nets.methods.test_classify import SECTION

HERE = Machine(torch.device("cpu"), compile=False, scratch=Path("scratch"))
KNOWN = {"mean": [0.25], "std": [0.5]}


@pytest.fixture
def model():
    with seeded(0):
        return Model(build_backbone("resnet-8-4", channels=1), build_head(16, 3))


def views(recipe=AugmentSettings(), precision="float32"):  # noqa: B008  frozen
    return Views([recipe], **KNOWN, seed=0, device=HERE.device, precision=precision)


def data(n):
    return ResidentSet(torch.zeros(n, 1, 8, 8, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64), "cpu")


def classifier(model, n=10, m=1, **changes):
    settings = ClassifySettings(**{**SECTION, "batch_size": 4, **changes})
    return Classify(
        model, data(n), data(m), recipe=AugmentSettings(), preprocessing=KNOWN, label="toy",
        settings=settings,
        seed=0, machine=HERE,
    )  # fmt: skip


def test_views_are_normalised_and_follow_seed_and_epoch():
    images = torch.randint(
        0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    plain, shifted = views(), views(AugmentSettings(pad=2))
    expected = (images / 255 - 0.25) / 0.5
    torch.testing.assert_close(plain(images, plain.generator("id", 0))[0], expected)
    torch.testing.assert_close(plain.clean(images), expected)

    def view(epoch, name="id"):
        return shifted(images, shifted.generator(name, epoch))[0]

    assert torch.equal(view(0), view(0))
    assert not torch.equal(view(0), view(1))
    assert not torch.equal(view(0), view(0, "auxiliary"))


def test_views_of_all_precisions_are_one_view():
    """The draws are the same, so float64 differs from float32 by rounding."""
    recipe = AugmentSettings(crop_scale_min=0.4, flip=0.5, jitter=0.8, brightness=0.5, contrast=0.5, blur=0.5)
    images = torch.randint(0, 256, (64, 1, 16, 16), dtype=torch.uint8)
    exact, rounded = (views(recipe, precision) for precision in ("float64", "float32"))
    exact, rounded = (each(images, each.generator("id", 0))[0] for each in (exact, rounded))
    assert exact.dtype == torch.float64 and rounded.dtype == torch.float32
    torch.testing.assert_close(exact.float(), rounded, atol=1e-5, rtol=0)
    assert not torch.equal(exact.float().double(), exact)


def test_a_frozen_backbone_keeps_weights_and_statistics(model):
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    Engine(classifier(model, freeze="backbone")).train(None)
    assert all(p.grad is None for p in model.backbone.parameters())
    assert model.head.weight.grad is not None
    assert all(torch.equal(value, before[key]) for key, value in model.backbone.state_dict().items())


def test_endless_shows_every_image_equally_often_in_new_orders():
    data = ResidentSet(torch.zeros(6, 1, 1, 1, dtype=torch.uint8), torch.zeros(6, dtype=torch.int64), "cpu")
    stream = endless(data, 0, 0, 3)
    turns = [torch.cat([next(stream), next(stream)]) for _ in range(4)]
    assert all(turn.sort().values.tolist() == list(range(6)) for turn in turns)
    assert len({tuple(turn.tolist()) for turn in turns}) > 1
    other = endless(data, 0, 1, 3)
    assert torch.cat([next(other), next(other)]).tolist() != turns[0].tolist()
    with pytest.raises(InputError, match="batch_size is 7, but the set has 6"):
        next(endless(data, 0, 0, 7))


def test_batches_larger_than_the_set_and_an_empty_validation_are_refused(model):
    def engine(**how):
        return Engine(classifier(model, **how))

    assert engine().steps == 2
    assert engine(batch_size=11).images == 10
    with pytest.raises(InputError, match="batch_size 4 times accumulate 3 is 12, but the set has 10 images"):
        engine(accumulate=3)
    with pytest.raises(InputError, match="no validation images"):
        engine(m=0)


def test_accuracy():
    logits = torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.0, 5.0]])
    assert accuracy(logits, torch.tensor([1, 1, 1])) == pytest.approx(2 / 3)


def test_curves_are_csv_with_the_epoch_first(tmp_path):
    save_curves(tmp_path / "c.csv", [{"loss": 1 / 3, "lr": 0.1}, {"loss": math.pi * 1e-9, "lr": 0.0}])
    assert (tmp_path / "c.csv").read_text() == "epoch,loss,lr\n1,0.333333,0.1\n2,3.14159e-09,0\n"
