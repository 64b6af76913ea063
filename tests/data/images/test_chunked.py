"""Chunks hold the pictures of a folder once each; epochs are parts of passes whose order the seed decides."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sslood.commands import pack
from sslood.core.errors import InputError
from sslood.core.files import load_tensors
from sslood.data.images.chunked import ChunkedSet, StreamSettings, open_split
from sslood.nets.training import loop
from stages import pretrain
from tests.kit.small import call, digit_images
from tests.kit.training import PRETRAIN

CPU = torch.device("cpu")
COUNT = 150
IMAGES, LABELS = (part[:COUNT] for part in digit_images())


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    """A folder with digits as pictures in class folders, their chunks, and the set file of these."""
    folder = tmp_path_factory.mktemp("packed")
    for number, (image, label) in enumerate(zip(IMAGES, LABELS, strict=True)):
        (folder / "in" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(folder / "in" / str(label) / f"{number}.png")
    given = {
        "name": "digits",
        "images": folder / "in",
        "size": 8,
        "channels": 1,
        "validation": 0.2,
        "epoch": 50,
    }
    assert call(pack.main, **given, to=folder / "chunks", out=folder / "digits.safetensors") == 0
    return folder


def stream(packed: Path, **changes) -> ChunkedSet:
    tensors, metadata = load_tensors(packed / "digits.safetensors", kind="set")
    metadata["stream"] |= changes
    found = open_split(tensors, metadata, "train", CPU, "digits")
    assert isinstance(found, ChunkedSet)
    return found


def shown(data: ChunkedSet, seed: int, epoch: int, size: int = 20) -> list[tuple[bytes, int]]:
    """Return the images of an epoch, and their labels, in their order."""
    read = data.batches(data.epoch_batches(seed, epoch, size, drop_last=False))
    return [
        (image.numpy().tobytes(), int(label))
        for images, labels in read
        for image, label in zip(images, labels, strict=True)
    ]


def test_the_pictures_are_there_once_as_the_chain_makes_them(packed):
    tensors, metadata = load_tensors(packed / "digits.safetensors", kind="set")
    data = stream(packed)
    train = torch.cat(list(data.in_order(32))).numpy()
    everything = np.concatenate([train, tensors["validation.images"]])
    labels = np.concatenate([tensors["train.labels"], tensors["validation.labels"]])
    assert (len(train), len(everything)) == (120, COUNT) == (metadata["stream"]["images"], COUNT)
    there = sorted(zip([image.tobytes() for image in everything], labels.tolist(), strict=True))
    assert there == sorted(zip([image.tobytes() for image in IMAGES], LABELS.tolist(), strict=True))
    assert torch.equal(data.labels, torch.as_tensor(np.array(tensors["train.labels"])))
    np.testing.assert_allclose(metadata["mean"], [(train / 255).mean()], rtol=1e-12)
    np.testing.assert_allclose(metadata["std"], [(train / 255).std()], rtol=1e-9)
    assert metadata["classes"] == [str(label) for label in range(10)]


def test_epochs_are_parts_of_passes_in_an_order_of_the_seed(packed):
    data = stream(packed)
    assert len(data) == 50
    epochs = [shown(data, 7, epoch) for epoch in range(5)]
    rows = [pair for epoch in epochs for pair in epoch]
    own = sorted((image.numpy().tobytes()) for image in torch.cat(list(data.in_order(50))))
    for turn in (rows[:120], rows[120:240]):  # two passes, whose border lies within the third epoch
        assert sorted(image for image, _ in turn) == own
    assert rows[:120] != rows[120:240] and sorted(rows[:120]) != rows[:120]
    truth = {image.tobytes(): label for image, label in zip(IMAGES, LABELS.tolist(), strict=True)}
    assert all(truth[image] == label for image, label in rows)
    again = stream(packed)
    assert [shown(again, 7, epoch, size=7) for epoch in (4, 2, 3)] == [epochs[4], epochs[2], epochs[3]]
    assert shown(again, 8, 0) != epochs[0]
    later = list(again.epoch_batches(7, 2, 20, drop_last=False))[
        1:
    ]  # an epoch that is taken up in its middle
    assert [image.numpy().tobytes() for images, _ in again.batches(later) for image in images] == [
        image for image, _ in epochs[2][20:]
    ]


def test_a_run_that_was_ended_goes_on_to_the_same_bytes(packed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    params = {
        "simclr": {"projector": [16, 8], "temperature": 0.2, "lr": 0.1},
        "resnet": {"depth": 8, "width": 4},
        "augment": {"simclr": {"crop_scale_min": 0.5}},
    }
    Path("p.yaml").write_text(yaml.safe_dump(params))
    options = {
        **PRETRAIN, "objective": "simclr", "seed": 0, "backbone": "resnet", "sizes": "p.yaml:resnet",
        "constants": "p.yaml:simclr", "recipe": "p.yaml:augment.simclr", "epochs": 4, "batch_size": 24,
        "id_set": packed / "digits.safetensors", "knn_every": 2,
    }  # fmt: skip

    def run(name: str) -> int:
        return call(pretrain.main, **options, out=f"{name}.safetensors", out_curves=f"{name}.csv")

    assert run("whole") == 0
    steps, check = [], loop.check_finite

    def stop(label, epoch, row):
        steps.append(epoch)
        if epoch == 2 and len(steps) == 3:
            raise KeyboardInterrupt
        check(label, epoch, row)

    monkeypatch.setattr(loop, "check_finite", stop)
    assert run("resumed") == 130 and not Path("resumed.safetensors").exists()
    assert run("resumed") == 0 and steps == [0, 1, 2, 2, 3]
    assert "going on after epoch 2 of 4" in capsys.readouterr().err
    for ending in ("safetensors", "csv"):
        assert Path(f"resumed.{ending}").read_bytes() == Path(f"whole.{ending}").read_bytes()


def test_chunks_that_do_not_fit_are_refused(packed, tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError, match="holds 120 images, the set file says 99; copy them again"):
        stream(packed, images=99)
    with pytest.raises(InputError, match="nowhere: no chunks can be read there"):
        stream(packed, address=str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="stream.epoch must be at least 1, found 0"):
        stream(packed, epoch=0)
    shutil.copytree(packed / "chunks", tmp_path / "moved")
    monkeypatch.setenv("SSLOOD_STREAM", str(tmp_path / "moved"))
    assert len(stream(packed, address=str(tmp_path / "nowhere"))) == 50
    wrong = ChunkedSet(StreamSettings(str(tmp_path / "moved"), 120, 50), (3, 8, 8), LABELS, CPU)
    with pytest.raises(InputError, match="holds images of another size"):
        shown(wrong, 0, 0)
    given = {"name": "digits", "images": packed / "in", "size": 8, "out": tmp_path / "s.safetensors"}
    assert call(pack.main, **given, to=packed / "chunks") == 1
    assert "chunks: is there already; name a new folder" in capsys.readouterr().err
