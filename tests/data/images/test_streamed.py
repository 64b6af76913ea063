"""A set read by threads gives the batches, and a training the bytes, of the set on the device."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from sslood.core.errors import InputError
from sslood.core.files import load_tensors, save_tensors
from sslood.data.images.resident import ResidentSet
from sslood.data.images.streamed import StreamedSet, open_set

CPU = torch.device("cpu")


@pytest.fixture
def arrays(tmp_path):
    """Real digits as memory maps of a file, as a stage reads them."""
    digits = load_digits()
    tensors = {"images": (digits.images * 15).astype(np.uint8)[:, None], "labels": digits.target}
    save_tensors(tmp_path / "digits", tensors, kind="set", metadata={})
    found, _ = load_tensors(tmp_path / "digits")
    return found["images"], found["labels"]


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_those_of_the_resident_set_in_their_order(arrays, workers):
    resident, streamed = ResidentSet(*arrays, CPU), StreamedSet(*arrays, CPU, workers)
    orders = [data.epoch_batches(3, 1, 100) for data in (resident, streamed)]
    pairs = zip(resident.batches(orders[0]), streamed.batches(orders[1]), strict=True)
    count = 0
    for (images, labels), (read, truth) in pairs:
        assert torch.equal(images, read) and torch.equal(labels, truth)
        count += len(images)
    assert count == 1700
    whole = torch.cat(list(streamed.in_order(250)))
    assert torch.equal(whole, torch.as_tensor(arrays[0]))
    assert [len(part) for part in streamed.in_order(1000)] == [1000, 797]


def test_reading_runs_ahead_by_a_bounded_number_of_batches(arrays):
    asked = []

    def indices():
        for number in range(50):
            asked.append(number)
            yield torch.tensor([number])

    batches = StreamedSet(*arrays, CPU, 2).batches(indices())
    next(batches)
    assert len(asked) == 5
    batches.close()


def test_an_image_that_cannot_be_read_stops_the_run(arrays):
    data = StreamedSet(*arrays, CPU, 2)
    with pytest.raises(IndexError):
        list(data.batches([torch.tensor([5000])]))


@pytest.mark.parametrize("limit, kind", [(None, ResidentSet), ("1", ResidentSet), ("0.0001", StreamedSet)])
def test_the_size_decides(arrays, monkeypatch, limit, kind):
    if limit:
        monkeypatch.setenv("SSLOOD_RESIDENT_GB", limit)  # the digits are 115 kB
    assert type(open_set(*arrays, CPU)) is kind


@pytest.mark.parametrize("name, text", [("SSLOOD_RESIDENT_GB", "all"), ("SSLOOD_WORKERS", "0")])
def test_settings_without_sense_are_refused(arrays, monkeypatch, name, text):
    monkeypatch.setenv("SSLOOD_RESIDENT_GB", "0")
    monkeypatch.setenv(name, text)
    with pytest.raises(InputError, match=f"{name} must be at least ., found '{text}'"):
        open_set(*arrays, CPU)
