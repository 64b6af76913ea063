"""Every reader the whole way: archives in the publishers' exact formats, served over HTTP, fetched,
verified, unpacked, read and counted; compared with torchvision where it reads the same files."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from stages.core.errors import InputError
from stages.core.seeding import numpy_stream
from stages.data.sets.catalogue import load_catalogue
from stages.data.sets.convert import convert
from stages.data.sets.images import read_image
from stages.data.sets.sources import read_source

CATALOGUE = load_catalogue()
RNG = np.random.default_rng(0)


def noise(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


def picture(kind: str, *shape: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(noise(*shape)).save(out, kind)
    return out.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w:gz") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def mat(**arrays) -> bytes:
    out = io.BytesIO()
    savemat(out, arrays)
    return out.getvalue()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def offered(server, name: str, bodies: dict[str, bytes], **changes):
    """Return the catalogue's entry with its files at the local server, their checksums and `changes`."""
    server.bodies.update(bodies)
    files = tuple(
        replace(
            file,
            sources=(f"{server.address}/ok/{file.name}",),
            md5=md5(bodies[file.name]),
            size=len(bodies[file.name]),
            content="",
            installed=(),
        )
        for file in CATALOGUE[name].published
        if file.name in bodies
    )
    return replace(CATALOGUE[name], published=files, **{"per_class": {}, **changes})


def fetched(entry, role="far"):
    return read_source(entry.name, entry, None, role)[0]


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

    old = CATALOGUE[name]
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


def test_textures(server, monkeypatch):
    """The archive holds more than pictures: labels, and the database of the authors."""
    from torchvision.datasets import DTD

    places = [f"{label}/{label}_{n:04}.jpg" for label in ("banded", "blotchy") for n in (2, 4, 5)]
    members = {f"dtd/images/{place}": picture("JPEG", 300, 320, 3) for place in places}
    for split in ("train", "val", "test"):
        members[f"dtd/labels/{split}1.txt"] = "\n".join(places).encode()
    members |= {"dtd/labels/labels_joint_anno.txt": b"", "dtd/imdb/imdb.mat": b"MATLAB 5.0 MAT-file"}
    body = tarred(members)
    entry = offered(server, "textures", {"dtd-r1.0.1.tar.gz": body}, counts={"test": 6})
    found = fetched(entry)["test"]
    assert found.classes == ("banded", "blotchy") and found.labels.tolist() == [0, 0, 0, 1, 1, 1]
    root = server.cache / "textures"
    (unpacked,) = root.glob("*.unpacked")
    (root / "dtd").symlink_to(unpacked)  # torchvision expects <root>/dtd/dtd
    expected = DTD(root, split="test")
    for path, (image, label) in zip(found.images, expected, strict=True):
        assert np.array_equal(np.asarray(read_image(path)), np.asarray(image))
        assert found.classes[label] in str(path)


def test_places365(server):
    members = {f"val_256/Places365_val_{n:08}.jpg": picture("JPEG", 256, 300, 3) for n in (1, 2, 3)}
    bodies = {"val_256.tar": tarred(members, "w:")}
    found = fetched(offered(server, "places365", bodies, counts={"test": 3}))["test"]
    assert len(found.images) == 3 and found.labels.tolist() == [-1] * 3 and found.classes == ()


ODIN = {
    "tiny_imagenet_crop": ("Imagenet", "test/"),
    "tiny_imagenet_resize": ("Imagenet_resize", "Imagenet_resize/"),
    "lsun_crop": ("LSUN", "test/"),
    "lsun_resize": ("LSUN_resize", "LSUN_resize/"),
    "isun": ("iSUN", "iSUN_patches/"),
}


@pytest.mark.parametrize("name", ODIN)
def test_odin(server, name):
    archive, inner = ODIN[name]
    suffix = "jpeg" if name == "isun" else "png"
    members = {f"{archive}/{inner}{n}.{suffix}": picture(suffix, 32, 32, 3) for n in range(3)}
    bodies = {f"{archive}.tar.gz": tarred(members)}
    found = fetched(offered(server, name, bodies, counts={"test": 3}))["test"]
    expected = [
        np.asarray(Image.open(io.BytesIO(content))).transpose(2, 0, 1) for content in members.values()
    ]
    assert np.array_equal(convert(found.images, 32, 3, "x"), expected) and found.labels.tolist() == [-1] * 3


def tiny_imagenet() -> tuple[bytes, np.ndarray]:
    out, pixels = io.BytesIO(), noise(4, 64, 64, 3)
    with zipfile.ZipFile(out, "w") as file:
        file.writestr("tiny-imagenet-200/wnids.txt", "n02\nn01\n")
        file.writestr("tiny-imagenet-200/words.txt", "n01\tgoldfish, Carassius auratus\nn02\tbullfrog\n")
        rows = [f"val_{n}.JPEG\t{('n01', 'n02')[n % 2]}\t0\t0\t63\t63\n" for n in range(4)]
        file.writestr("tiny-imagenet-200/val/val_annotations.txt", "".join(rows))
        file.writestr("tiny-imagenet-200/train/n01/images/n01_0.JPEG", b"")
        for number, array in enumerate(pixels):
            with file.open(f"tiny-imagenet-200/val/images/val_{number}.JPEG", "w") as member:
                Image.fromarray(array).save(member, "JPEG", quality=100, subsampling=0)
    return out.getvalue(), pixels


@pytest.mark.parametrize("kind", ["", "_crop_fixed", "_resize_fixed"])
def test_tiny_imagenet(server, kind):
    body, _ = tiny_imagenet()
    entry = offered(server, f"tiny_imagenet{kind}", {"tiny-imagenet-200.zip": body}, counts={"test": 4})
    found = fetched(entry)["test"]
    assert found.labels.tolist() == [0, 1, 0, 1] and found.classes == ("goldfish", "bullfrog")
    plain = fetched(replace(entry, options={}))["test"]
    whole = convert(plain.images, 64, 3, "x").transpose(0, 2, 3, 1)
    if kind == "_resize_fixed":
        expected = [Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR) for image in whole]
        assert np.array_equal(found.images, np.stack([np.asarray(image) for image in expected]))
    if kind == "_crop_fixed":
        rng = numpy_stream(0, "crop", entry.name)
        assert np.array_equal(found.images, fetched(entry)["test"].images)
        for image, square in zip(whole, found.images, strict=True):
            left, top = rng.integers(33), rng.integers(33)
            assert np.array_equal(image[top : top + 32, left : left + 32], square)


def test_tiny_imagenet_of_an_unknown_class(server, tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    (folder / "val").mkdir(parents=True)
    for name, text in {"wnids.txt": "n01\n", "words.txt": "", "val/val_annotations.txt": "a\tn09\n"}.items():
        (folder / name).write_text(text)
    from stages.data.sets.readers import READERS

    with pytest.raises(InputError, match="label of image 0 does not fit"):
        READERS["tiny_imagenet"]({"x": folder}, "test", {})


def lsun(folder, sides):
    (folder / "lsun/test").mkdir(parents=True)
    for number, side in enumerate(sides):
        (folder / f"lsun/test/{number}.webp").write_bytes(picture("WEBP", side, 300, 3))


def test_lsun_from_the_users_folder(tmp_path, monkeypatch):
    lsun(tmp_path, (256, 256))
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(tmp_path))
    for kind in ("crop", "resize"):
        found = fetched(CATALOGUE[f"lsun_{kind}_fixed"])["test"]
        assert found.images.shape == (2, 32, 32, 3) and found.labels.tolist() == [-1, -1]
    (tmp_path / "lsun/test/2.webp").write_bytes(picture("WEBP", 20, 300, 3))
    with pytest.raises(InputError, match=r"2\.webp: smaller than 32x32"):
        fetched(CATALOGUE["lsun_crop_fixed"])


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


def test_flowers102(server, monkeypatch):
    from torchvision.datasets import Flowers102

    bodies = {
        "102flowers.tgz": tarred({f"jpg/image_{n:05}.jpg": picture("JPEG", 40, 50, 3) for n in range(1, 9)}),
        "imagelabels.mat": mat(labels=np.array([[77, 77, 1, 102, 3, 3, 3, 9]], np.uint8)),
        "setid.mat": mat(trnid=np.array([[1, 3]]), valid=np.array([[4, 5]]), tstid=np.array([[8, 2, 6, 7]])),
    }
    counts = {"train": 2, "validation": 2, "test": 4}
    read = fetched(offered(server, "flowers102", bodies, counts=counts), "id")
    root = server.cache / "flowers102"
    (unpacked,) = root.glob("*.unpacked")
    monkeypatch.setattr(Flowers102, "_check_integrity", lambda self: True)
    (server.cache / "flowers-102").mkdir()
    (server.cache / "flowers-102/jpg").symlink_to(unpacked / "jpg")
    for name in ("imagelabels.mat", "setid.mat"):
        (server.cache / "flowers-102" / name).symlink_to(root / name)
    for split, theirs in (("train", "train"), ("validation", "val"), ("test", "test")):
        expected = Flowers102(server.cache, split=theirs)
        assert [path.name for path in read[split].images] == [path.name for path in expected._image_files]
        assert read[split].labels.tolist() == expected._labels
    bodies["setid.mat"] = mat(tstid=np.array([[9]]))
    with pytest.raises(InputError, match=r"setid\.mat: names pictures beyond the 8"):
        fetched(offered(server, "flowers102", bodies, counts={"test": 1}))


def test_sun397(server):
    from torchvision.datasets import SUN397

    places = ["a/abbey/sun_aaa", "a/apartment_building/outdoor/sun_bbb", "z/zoo/sun_ccc", "z/zoo/sun_ddd"]
    members = {f"SUN397/{place}.jpg": picture("JPEG", 60, 50, 3) for place in places}
    members["SUN397/ClassName.txt"] = b"/a/abbey\n/a/apartment_building/outdoor\n/z/zoo\n"
    bodies = {"SUN397.tar.gz": tarred(members)}
    entry = offered(server, "sun397", bodies, counts={"all": 4})
    found = fetched(entry)[""]
    (unpacked,) = (server.cache / "sun397").glob("*.unpacked")
    expected = SUN397(unpacked)
    assert list(found.classes) == expected.classes and found.labels.tolist() == [0, 1, 2, 2]
    order = np.argsort([str(path) for path in expected._image_files])
    assert [expected._labels[row] for row in order] == found.labels.tolist()
    bodies = {"SUN397.tar.gz": tarred(members | {"SUN397/b/barn/sun_eee.jpg": b""})}
    with pytest.raises(InputError, match="label of image 2 does not fit"):
        fetched(offered(server, "sun397", bodies, counts={"all": 5}))


def test_imagenet_from_the_users_folder(server, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="not offered for free download.*SSLOOD_DATA_MIRROR"):
        fetched(CATALOGUE["imagenet"])
    for split, wnid, number in (
        ("train", "n01", 0),
        ("train", "n02", 1),
        ("val", "n01", 2),
        ("val", "n02", 3),
    ):
        path = tmp_path / f"imagenet/{split}/{wnid}/{number}.JPEG"
        path.parent.mkdir(parents=True)
        path.write_bytes(picture("JPEG", 50, 60, 3))
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(tmp_path))
    read = fetched(CATALOGUE["imagenet"], "id")
    assert [pictures.labels.tolist() for pictures in read.values()] == [[0, 1], [0, 1]]
    assert read["test"].classes == ("n01", "n02")


def test_whole_fashion_mnist(fashion_mnist):
    """All 70,000 pictures as Debian packs them: recompressed, so their content is what must match."""
    read, source = read_source("fashion_mnist", CATALOGUE["fashion_mnist"], None, "id")
    assert {file["checked"] for file in source["files"].values()} == {"published content"}
    for split, count in (("train", 6000), ("test", 1000)):
        assert np.bincount(read[split].labels).tolist() == [count] * 10
    assert round(read["train"].images.mean() / 255, 4) == 0.286  # the mean that everybody normalises by
