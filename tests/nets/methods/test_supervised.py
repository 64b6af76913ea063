import math

import pytest
import torch

from sslood.core.errors import InputError
from sslood.data.images.augment import Recipe
from sslood.data.images.resident import ResidentSet
from sslood.nets.methods.supervised import accuracy, check_sets, endless, make_views, set_modes
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import Model
from sslood.nets.networks.heads import build_head
from sslood.nets.training.curves import save_curves


@pytest.fixture
def model():
    with seeded(0):
        return Model(build_backbone("resnet-8-4", channels=1), build_head(16, 3))


def test_views_are_normalised_and_follow_seed_and_epoch():
    metadata = {"mean": [0.25], "std": [0.5]}
    images = torch.randint(
        0, 256, (6, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    plain = make_views(Recipe(), metadata, 0, torch.device("cpu"))
    assert torch.allclose(plain(images, plain.generator(0, "id")), (images / 255 - 0.25) / 0.5, atol=1e-6)
    shifted = make_views(Recipe(pad=2), metadata, 0, torch.device("cpu"))

    def view(epoch, name="id"):
        return shifted(images, shifted.generator(epoch, name))

    assert torch.equal(view(0), view(0))
    assert not torch.equal(view(0), view(1))
    assert not torch.equal(view(0), view(0, "auxiliary"))


def test_a_frozen_backbone_keeps_weights_and_statistics(model):
    before = {key: value.clone() for key, value in model.backbone.state_dict().items()}
    set_modes(model, "backbone")
    model(torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))).sum().backward()
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


def test_batches_larger_than_the_set_and_an_empty_validation_are_refused():
    def data(n):
        return ResidentSet(
            torch.zeros(n, 1, 1, 1, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64), "cpu"
        )

    assert check_sets(data(10), data(1), 4) == 2
    with pytest.raises(InputError, match="batch_size is 11"):
        check_sets(data(10), data(1), 11)
    with pytest.raises(InputError, match="no validation images"):
        check_sets(data(10), data(0), 4)


def test_accuracy():
    logits = torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.0, 5.0]])
    assert accuracy(logits, torch.tensor([1, 1, 1])) == pytest.approx(2 / 3)


def test_curves_are_csv_with_the_epoch_first(tmp_path):
    save_curves(tmp_path / "c.csv", [{"loss": 1 / 3, "lr": 0.1}, {"loss": math.pi * 1e-9, "lr": 0.0}])
    assert (tmp_path / "c.csv").read_text() == "epoch,loss,lr\n1,0.333333,0.1\n2,3.14159e-09,0\n"
