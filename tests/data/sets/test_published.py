"""Every reader of arrays the whole way: archives in the publishers' exact formats, served over HTTP, fetched,
verified, unpacked, read and counted; compared with torchvision where it reads the same files."""

import gzip
import hashlib
import io
import pickle
import struct
from dataclasses import replace

import numpy as np
import pytest

from sslood.core.errors import InputError
from tests.data.publishing import RNG, SOURCES, fetched, mat, md5, noise, offered, read_source, tarred


def cifar(names_key, label_key, batches, meta, classes):
    members = {meta: pickle.dumps({names_key: classes})}
    for name in batches:
        labels = [int(label) for label in RNG.integers(0, len(classes), 20)]
        members[name] = pickle.dumps({"data": noise(20, 3072), label_key: labels, "batch_label": name})
    return members


@pytest.mark.parametrize(
    ("name", "folder", "meta"),
    [("cifar10", "cifar-10-batches-py", "batches.meta"), ("cifar100", "cifar-100-python", "meta")],
)
def test_cifar(server, monkeypatch, name, folder, meta):
    from torchvision import datasets

    old = SOURCES[name]
    batches = (*old.options["train"], *old.options["test"])
    classes = [f"class {number}" for number in range(len(name) * 2)]
    members = cifar(old.options["names_key"], old.options["label_key"], batches, meta, classes)
    sums = {key: {file: md5(members[file]) for file in old.options[key]} for key in ("train", "test", "meta")}
    body = tarred({f"{folder}/{file}": content for file, content in members.items()})
    counts = {"train": 20 * (len(batches) - 1), "test": 20}
    bodies = {old.published[0].name: body}
    entry = offered(server, name, bodies, counts=counts, options={**old.options, **sums})
    read = fetched(entry, "id")
    reference = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    monkeypatch.setattr(reference, "_check_integrity", lambda self: True)
    monkeypatch.setitem(reference.meta, "md5", sums["meta"][meta])
    root = server.cache / name / f"{old.published[0].name}.{hashlib.sha256(body).hexdigest()[:16]}.unpacked"
    for split in ("train", "test"):
        expected = reference(root, train=split == "train")
        assert np.array_equal(read[split].images, expected.data)
        assert read[split].labels.tolist() == expected.targets and list(read[split].classes) == classes
    with pytest.raises(InputError, match="40 test images found|20 test images found, published are 40"):
        fetched(replace(entry, counts={"test": 40}))


def test_svhn(server, monkeypatch):
    from torchvision.datasets import SVHN

    labels = np.array([[10], [1], [2], [9], [10]], np.uint8)
    body = mat(X=noise(32, 32, 3, 5), y=labels)
    entry = offered(server, "svhn", {"test_32x32.mat": body}, counts={"test": 5})
    found = fetched(entry)["test"]
    monkeypatch.setattr(SVHN, "_check_integrity", lambda self: True)
    expected = SVHN(server.cache / "svhn", split="test")
    assert np.array_equal(found.images, expected.data.transpose(0, 2, 3, 1))
    assert found.labels.tolist() == expected.labels.tolist() == [0, 1, 2, 9, 0]
    for wrong in (0, 11):
        labels[2] = wrong
        bodies = {"test_32x32.mat": mat(X=noise(32, 32, 3, 5), y=labels)}
        with pytest.raises(InputError, match="label of image 2 does not fit the 10 classes"):
            fetched(offered(server, "svhn", bodies))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "kmnist"])
def test_idx(server, name):
    images, labels = noise(6, 28, 28), np.array([3, 0, 9, 1, 1, 7], np.uint8)
    content = struct.pack(">4I", 0x803, 6, 28, 28) + images.tobytes()
    bodies = {
        "t10k-images-idx3-ubyte.gz": gzip.compress(content),
        "t10k-labels-idx1-ubyte.gz": gzip.compress(struct.pack(">2I", 0x801, 6) + labels.tobytes()),
    }
    found = fetched(offered(server, name, bodies, counts={"test": 6}))["test"]
    assert np.array_equal(found.images, images) and found.labels.tolist() == labels.tolist()
    assert len(found.classes) == 10
    with pytest.raises(InputError, match="6 test images found, published are 10000"):
        fetched(offered(server, name, bodies, counts={"test": 10000}))
    counts = {"counts": {"test": 6}, "per_class": {"test": [1, 1, 1, 1, 0, 0, 0, 1, 0, 1]}}
    with pytest.raises(InputError, match="2 test images of class .* found"):
        fetched(offered(server, name, bodies, **counts))
    labels[4] = 10
    bodies["t10k-labels-idx1-ubyte.gz"] = gzip.compress(struct.pack(">2I", 0x801, 6) + labels.tobytes())
    with pytest.raises(InputError, match="label of image 4 does not fit"):
        fetched(offered(server, name, bodies))


def test_stl10(server, monkeypatch):
    from torchvision.datasets import STL10

    names = b"airplane\nbird\ncar\ncat\ndeer\ndog\nhorse\nmonkey\nship\ntruck\n"
    members = {"stl10_binary/class_names.txt": names, "stl10_binary/fold_indices.txt": b"0 1\n"}
    for split in ("train", "test"):
        members[f"stl10_binary/{split}_X.bin"] = noise(4, 3, 96, 96).tobytes()
        members[f"stl10_binary/{split}_y.bin"] = bytes([10, 1, 3, 3])
    members["stl10_binary/unlabeled_X.bin"] = noise(2, 3, 96, 96).tobytes()
    body = tarred(members)
    entry = offered(server, "stl10", {"stl10_binary.tar.gz": body}, counts={"train": 4, "test": 4})
    read = fetched(entry, "id")
    monkeypatch.setattr(STL10, "_check_integrity", lambda self: True)
    name = f"stl10_binary.tar.gz.{hashlib.sha256(body).hexdigest()[:16]}.unpacked"
    for split in ("train", "test"):
        expected = STL10(server.cache / "stl10" / name, split=split)
        assert np.array_equal(read[split].images, expected.data.transpose(0, 2, 3, 1))
        assert read[split].labels.tolist() == expected.labels.tolist() == [9, 0, 2, 2]
        assert list(read[split].classes) == expected.classes
    for change, words in (({"test_y.bin": b"\1\2\3\13"}, "image 3"), ({"test_X.bin": b"x" * 9}, "cut short")):
        spoilt = members | {f"stl10_binary/{file}": content for file, content in change.items()}
        with pytest.raises(InputError, match=words):
            fetched(offered(server, "stl10", {"stl10_binary.tar.gz": tarred(spoilt)}, counts={"test": 4}))


def test_300k_random_images(server):
    out, images = io.BytesIO(), noise(9, 32, 32, 3)
    np.save(out, images)
    entry = offered(
        server, "random_images_300k", {"300K_random_images.npy": out.getvalue()}, counts={"train": 9}
    )
    found = fetched(entry, "auxiliary")["train"]
    assert np.array_equal(found.images, images) and isinstance(found.images, np.memmap)
    with pytest.raises(InputError, match="give it role auxiliary"):
        fetched(entry, "far")
    for content, words in (
        (np.array([print], object), "not a complete NumPy file"),  # would have to be unpickled
        (noise(9, 32, 32), r"uint8 \[9, 32, 32\], not images"),
    ):
        out = io.BytesIO()
        np.save(out, content, allow_pickle=True)
        bodies = {"300K_random_images.npy": out.getvalue()}
        with pytest.raises(InputError, match=words):
            fetched(offered(server, "random_images_300k", bodies, counts={"train": 9}), "auxiliary")


def test_recompressed_fashion_mnist(server, tmp_path):
    """As Debian installs it: the publisher's four files with other gzip headers, known by what they hold."""
    contents = {}
    for split, count in (("train", 7), ("t10k", 4)):
        images, labels = noise(count, 28, 28), np.arange(count, dtype=np.uint8)
        contents[f"{split}-images-idx3-ubyte.gz"] = (
            struct.pack(">4I", 0x803, count, 28, 28) + images.tobytes()
        )
        contents[f"{split}-labels-idx1-ubyte.gz"] = struct.pack(">2I", 0x801, count) + labels.tobytes()
    old = offered(server, "fashion_mnist", {name: gzip.compress(body) for name, body in contents.items()})
    files = [
        replace(file, content=hashlib.sha256(contents[file.name]).hexdigest(), installed=(str(tmp_path),))
        for file in old.published
    ]
    entry = replace(old, published=tuple(files), counts={"train": 7, "test": 4})
    for name, content in contents.items():
        (tmp_path / name).write_bytes(gzip.compress(content, 1, mtime=1))
    read, source = read_source(entry, "id")
    assert server.log == [] and {f["checked"] for f in source["files"].values()} == {"published content"}
    assert read["train"].labels.tolist() == list(range(7)) and np.array_equal(read["test"].images, images)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16)))  # not the published one
    read, source = read_source(entry, "id")
    assert [path for path, _ in server.log] == ["/ok/t10k-images-idx3-ubyte.gz"]
    assert np.array_equal(read["test"].images, images)


def test_whole_fashion_mnist(fashion_mnist):
    """All 70,000 pictures as Debian packs them: recompressed, so their content is what must match."""
    read, source = read_source(SOURCES["fashion_mnist"], "id")
    assert {file["checked"] for file in source["files"].values()} == {"published content"}
    for split, count in (("train", 6000), ("test", 1000)):
        assert np.bincount(read[split].labels).tolist() == [count] * 10
    assert round(read["train"].images.mean() / 255, 4) == 0.286  # the mean that everybody normalises by
