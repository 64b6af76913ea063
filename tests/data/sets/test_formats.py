"""Readers on real files of the mirror, and on small files in the publishers' formats."""

import gzip
import hashlib
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from sklearn.datasets import load_digits

from sslood.core.errors import InputError
from sslood.data.sets.convert import convert
from sslood.data.sets.formats import cifar, idx, tiny_imagenet
from sslood.data.sets.pictures import digest
from sslood.data.sets.published_source import PublishedSource
from sslood.data.sets.source import all_sources, package_folder
from sslood.data.sets.tree import list_images, tree
from sslood.data.sources.digits import read_digits
from sslood.data.sources.random_images_300k import npy
from sslood.data.sources.svhn import svhn

SOURCES = all_sources()
PUBLISHED = {name: source for name, source in SOURCES.items() if isinstance(source, PublishedSource)}


def test_sources_are_complete():
    assert len(PUBLISHED) >= 23
    for name, source in SOURCES.items():
        assert source.name == name and source.licence and (source.citation or name == "folder")
        assert 10 < len(source.description) < 110 and not source.description.endswith(".")
    for source in PUBLISHED.values():
        assert source.counts
        for file in source.published:
            assert (file.sources or file.folders) and all(
                address.startswith(("http://", "https://")) for address in file.sources
            )
            assert len(file.md5) in (0, 32) and len(file.sha256) in (0, 64)


def test_checksums_agree_with_torchvision():
    from torchvision import datasets

    def md5s(name):
        return {file.name: file.md5 for file in PUBLISHED[name].published}

    assert md5s("cifar10") == {datasets.CIFAR10.filename: datasets.CIFAR10.tgz_md5}
    assert md5s("cifar100") == {datasets.CIFAR100.filename: datasets.CIFAR100.tgz_md5}
    assert md5s("mnist") == dict(datasets.MNIST.resources)
    assert md5s("fashion_mnist") == dict(datasets.FashionMNIST.resources)
    assert md5s("svhn") == {
        datasets.SVHN.split_list[split][1]: datasets.SVHN.split_list[split][2] for split in ("train", "test")
    }
    assert md5s("textures") == {"dtd-r1.0.1.tar.gz": datasets.DTD._MD5}
    assert md5s("kmnist") == dict(datasets.KMNIST.resources)
    assert md5s("stl10") == {datasets.STL10.filename: datasets.STL10.tgz_md5}
    assert md5s("flowers102") == dict(datasets.Flowers102._file_dict.values())
    assert md5s("sun397") == {"SUN397.tar.gz": datasets.SUN397._DATASET_MD5}
    assert md5s("places365") == dict([datasets.Places365._IMAGES_META[("val", True)]])
    for name, kind in (("cifar10", datasets.CIFAR10), ("cifar100", datasets.CIFAR100)):
        options = PUBLISHED[name].options
        assert options["train"] == dict(kind.train_list) and options["test"] == dict(kind.test_list)
        assert options["meta"] == {kind.meta["filename"]: kind.meta["md5"]}


def test_checksums_agree_with_pytorch_ood():
    from pytorch_ood.dataset import img

    pairs = {
        "tiny_imagenet": img.TinyImageNet,
        "tiny_imagenet_crop_fixed": img.TinyImageNet,
        "tiny_imagenet_resize_fixed": img.TinyImageNet,
        "tiny_imagenet_resize_aliased": img.TinyImageNet,
        "tiny_imagenet_crop": img.TinyImageNetCrop,
        "tiny_imagenet_resize": img.TinyImageNetResize,
        "lsun_crop": img.LSUNCrop,
        "lsun_resize": img.LSUNResize,
        "random_images_300k": img.TinyImages300k,
    }
    for name, theirs in pairs.items():
        (file,) = PUBLISHED[name].published
        assert file.name == theirs.filename
        assert file.md5 == (theirs.md5 if name == "random_images_300k" else theirs.tgz_md5)


def test_numbers_per_class_add_up():
    for name, source in PUBLISHED.items():
        classes = {"cifar100": 100, "textures": 47, "flowers102": 102, "imagenet": 1000}.get(name, 10)
        classes = 200 if name.startswith("tiny_imagenet") else classes
        for split, numbers in source.per_class.items():
            total = classes * numbers if isinstance(numbers, int) else sum(numbers)
            assert total == source.counts[split], name


def test_cifar10_is_the_official_one(mirror):
    from torchvision.datasets import CIFAR10

    entry = PUBLISHED["cifar10"]
    files = {"cifar-10-python.tar.gz": mirror / "cifar-10-batches-py"}
    train, test = (cifar(files, split, entry.options) for split in ("train", "test"))
    assert train.labels[:5].tolist() == [6, 9, 9, 4, 1]
    assert np.bincount(train.labels).tolist() == [5000] * 10
    assert np.bincount(test.labels).tolist() == [1000] * 10
    assert train.classes[:2] == ("airplane", "automobile")
    reference = CIFAR10(mirror, train=False)
    assert np.array_equal(test.images, reference.data) and test.labels.tolist() == reference.targets


def test_cifar_does_not_unpickle_what_it_cannot_verify(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was opened before its checksum was compared",))

    for name in ("batches.meta", "test_batch"):
        (tmp_path / name).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match="md5 is not the published"):
        cifar({"x": tmp_path}, "test", PUBLISHED["cifar10"].options)


def test_cifar100_from_a_folder_of_classes(mirror):
    found = cifar({"x": mirror / "cifar100-test"}, "test", PUBLISHED["cifar100"].options)
    assert np.bincount(found.labels).tolist() == [100] * 100
    assert found.classes[0] == "apple" and found.classes[-1] == "worm"


def test_mnist_class_counts(mirror):
    files = {path.name: path for path in (mirror / "mnist").iterdir()}
    found = idx(files, "test", PUBLISHED["mnist"].options)
    assert found.images.shape == (10000, 28, 28)
    assert np.bincount(found.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


def test_tiny_imagenet_follows_its_annotations(mirror):
    folder = mirror / "tiny-imagenet-200"
    found = tiny_imagenet({"x": folder}, "test", {})
    assert len(found.images) == 10000 and np.bincount(found.labels).tolist() == [50] * 200
    name, wnid = (folder / "val/val_annotations.txt").read_text().split()[:2]
    assert found.images[0].name == name
    assert sorted((folder / "wnids.txt").read_text().split())[found.labels[0]] == wnid


def test_textures(mirror):
    found = tree({"x": mirror / "dtd-short64"}, "test", {})
    assert np.bincount(found.labels).tolist() == [120] * 10 and found.classes[0] == "banded"


def test_digits_equal_scikit_learns():
    images, labels = read_digits(package_folder("sklearn", "datasets/data") / "digits.csv.gz")
    reference = load_digits()
    assert np.array_equal(labels, reference.target)
    assert np.abs(images / 255 - reference.images / 16).max() <= 0.5 / 255


def test_svhn_ten_means_zero(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 7), np.uint8)
    labels = np.array([[10], [1], [2], [9], [10], [5], [3]], np.uint8)
    savemat(tmp_path / "test_32x32.mat", {"X": images, "y": labels})
    found = svhn({"test_32x32.mat": tmp_path / "test_32x32.mat"}, "test", PUBLISHED["svhn"].options)
    assert found.labels.tolist() == [0, 1, 2, 9, 0, 5, 3]
    assert np.array_equal(found.images[3], images[..., 3])
    (tmp_path / "test_32x32.mat").write_bytes(b"MATLAB 5.0 MAT-file, cut short")
    with pytest.raises(InputError, match="test_32x32.mat: not the set's Matlab file"):
        svhn({"test_32x32.mat": tmp_path / "test_32x32.mat"}, "test", PUBLISHED["svhn"].options)


@pytest.mark.parametrize("damage", ["cut", "magic", "count"])
def test_idx_damage_is_named(tmp_path, damage):
    options = {"test": ["images.gz", "labels.gz"], "classes": ["a", "b"]}
    images = struct.pack(">I3I", 0x00000803, 3, 2, 2) + bytes(range(12))
    labels = struct.pack(">2I", 0x00000801, 3) + bytes([0, 1, 1])
    if damage == "cut":
        images = images[:-1]
    if damage == "magic":
        images = b"\0\0\x0d\x03" + images[4:]
    if damage == "count":
        labels = struct.pack(">2I", 0x00000801, 2) + bytes([0, 1])
    files = {name: tmp_path / name for name in options["test"]}
    files["images.gz"].write_bytes(gzip.compress(images))
    files["labels.gz"].write_bytes(labels)  # unpacked copies are read as well
    with pytest.raises(InputError, match=r"\.gz"):
        idx(files, "test", options)


def idx_file(*shape: int, content: bytes) -> bytes:
    return struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape) + content


def test_an_idx_file_with_a_wrong_byte_is_noticed(tmp_path):
    """gzip keeps a checksum of its content: of 200 flipped bits none changes a picture."""
    options = {"test": ["images.gz", "labels"], "classes": ["a", "b"]}
    pictures, rng = np.random.default_rng(0).integers(0, 256, (20, 9, 9), np.uint8), np.random.default_rng(1)
    good = gzip.compress(idx_file(20, 9, 9, content=pictures.tobytes()))
    files = {name: tmp_path / name for name in options["test"]}
    files["labels"].write_bytes(idx_file(20, content=bytes(20)))
    for _ in range(200):
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        files["images.gz"].write_bytes(bad)
        try:
            found = idx(files, "test", options)
        except InputError as error:
            assert str(error).startswith(f"{files['images.gz']}: ") and str(error).isprintable()
        else:
            assert np.array_equal(found.images, pictures)


@pytest.mark.parametrize("shape", [(60_000, 28, 28), (2**32 - 1,) * 3, (2**31, 2**31, 4), (4000, 1000, 1000)])
def test_an_idx_file_unpacks_to_no_more_than_it_says(tmp_path, shape):
    options = {"test": ["images.gz", "labels.gz"], "classes": ["a", "b"]}
    files = {name: tmp_path / name for name in options["test"]}
    files["images.gz"].write_bytes(gzip.compress(idx_file(*shape, content=bytes(50_000_000)), 1))
    with pytest.raises(InputError, match=r"images\.gz: not a complete idx file"):
        idx(files, "test", options)


def test_what_is_no_numpy_file_is_named(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((2, 4, 4, 3), np.uint8))
    good, shape = path.read_bytes(), b"(2, 4, 4, 3)"
    assert npy({"x": path}, "train", {}).images.shape == (2, 4, 4, 3)
    bad = [
        good.replace(shape, other.ljust(len(shape))) for other in (b"(-2, 4, 4,3)", b"(9**9,", b"(2, '4')")
    ]
    np.savez(tmp_path / "z.npz", a=np.zeros(1))
    for content in (
        *bad,
        good[:100],
        b"",
        b"\x80\x04.",
        (tmp_path / "z.npz").read_bytes(),
        good[:9] + good[5:],
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"a\.npy: "):
            npy({"x": path}, "train", {})


def test_text_that_is_none_is_named(tmp_path):
    (tmp_path / "val").mkdir()
    (tmp_path / "words.txt").write_text("n1\tx")
    (tmp_path / "wnids.txt").write_bytes(b"n1\xff\n")
    (tmp_path / "val/val_annotations.txt").write_text("a.png\tn1\nb.png\n")
    with pytest.raises(InputError, match=r"wnids\.txt: not text"):
        tiny_imagenet({"x": tmp_path}, "test", {})
    (tmp_path / "wnids.txt").write_text("n1\n")
    for row in ("b.png", "../../b.png\tn1", "/etc/b.png\tn1"):
        (tmp_path / "val/val_annotations.txt").write_text(f"a.png\tn1\n{row}\n")
        with pytest.raises(InputError, match=r"val_annotations\.txt: .* is no name and class"):
            tiny_imagenet({"x": tmp_path}, "test", {})


def test_folder_flat_by_class_and_mixed(tmp_path):
    picture = Image.new("RGB", (9, 9))
    for name in ("a.png", "b.JPG", ".hidden.png"):
        picture.save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no picture")
    assert [os.path.basename(path) for path in list_images(tmp_path)] == ["a.png", "b.JPG"]
    assert tree({"x": tmp_path}, "test", {}).labels.tolist() == [-1, -1]
    (tmp_path / "cats").mkdir()
    picture.save(tmp_path / "cats/c.webp")
    with pytest.raises(InputError, match="beside class folders"):
        tree({"x": tmp_path}, "test", {})
    assert tree({"x": tmp_path}, "test", {"flat": True}).labels.tolist() == [-1] * 3
    for name in ("a.png", "b.JPG"):
        (tmp_path / name).unlink()
    assert tree({"x": tmp_path}, "test", {}).classes == ("cats",)


def test_empty_folder(tmp_path):
    with pytest.raises(InputError, match="no image"):
        tree({"x": tmp_path}, "test", {})


def test_links_are_followed_but_not_in_circles(tmp_path):
    """A folder of links to classes kept elsewhere is a set like any other; a link to nothing is named."""
    for name in ("cats", "dogs"):
        (tmp_path / "kept" / name).mkdir(parents=True)
        Image.new("RGB", (9, 9)).save(tmp_path / "kept" / name / "a.png")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/cats").symlink_to(tmp_path / "kept/cats")
    (tmp_path / "mine/dogs").symlink_to(tmp_path / "kept/dogs")
    (tmp_path / "kept/cats/again").symlink_to(tmp_path / "kept")
    found = tree({"x": tmp_path / "mine"}, "test", {})
    assert found.classes == ("cats", "dogs") and found.labels.tolist() == [0, 1]
    (tmp_path / "mine/cats/gone.png").symlink_to(tmp_path / "nowhere.png")
    found = tree({"x": tmp_path / "mine"}, "test", {})
    assert len(digest(found.images, tmp_path / "mine")) == 64
    with pytest.raises(InputError, match=r"gone\.png: cannot be read"):
        convert(found.images, 8, 3, "x")


def test_digest_is_of_names_and_contents(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/x.png", "b.png"):
        (tmp_path / name).write_bytes(name.encode())
    lines = "".join(f"{name}\0{hashlib.sha256(name.encode()).hexdigest()}\n" for name in ("a/x.png", "b.png"))
    for root in (tmp_path, Path(os.path.relpath(tmp_path))):
        assert digest(list_images(root), root) == hashlib.sha256(lines.encode()).hexdigest()
