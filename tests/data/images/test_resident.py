import numpy as np
import pytest
import torch

from sslood.core.batches import normalise
from sslood.core.errors import InputError
from sslood.data.images.resident import ResidentSet


def small(n=10):
    images = np.arange(n * 4, dtype=np.uint8).reshape(n, 1, 2, 2)
    return ResidentSet(images, np.arange(n), "cpu")


def test_an_epoch_visits_each_image_at_most_once_and_drops_the_rest():
    batches = list(small().epoch_batches(0, 0, 4))
    assert [len(batch) for batch in batches] == [4, 4]
    assert len(set(torch.cat(batches).tolist())) == 8


def test_without_dropping_every_image_comes_once():
    batches = list(small().epoch_batches(0, 0, 4, drop_last=False))
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert sorted(torch.cat(batches).tolist()) == list(range(10))


def test_order_follows_from_seed_and_epoch_alone():
    def order(seed, epoch):
        return torch.cat(list(small().epoch_batches(seed, epoch, 5))).tolist()

    torch.manual_seed(3)
    first = order(0, 1)
    torch.manual_seed(4)
    assert order(0, 1) == first
    assert order(0, 2) != first
    assert order(1, 1) != first


def test_a_batch_larger_than_the_set_is_refused():
    with pytest.raises(InputError, match="batch_size is 11, but the set has 10 images"):
        list(small().epoch_batches(0, 0, 11))


def test_images_and_labels_must_pair():
    with pytest.raises(InputError, match="2 images but 3 labels"):
        ResidentSet(np.zeros((2, 1, 2, 2), np.uint8), np.zeros(3), "cpu")


def test_normalise_gives_mean_0_and_std_1_for_bytes_and_floats():
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 3, 4, 4), dtype=np.uint8))
    scaled = images.double() / 255
    mean, std = scaled.mean((0, 2, 3)), scaled.std((0, 2, 3), correction=0)
    for given in (images, images.float() / 255):
        result = normalise(given, mean.tolist(), std.tolist())
        torch.testing.assert_close(result.mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(result.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5, rtol=0)
