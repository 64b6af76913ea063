"""Every reader of picture files the whole way, as tests/data/sets/test_published.py has it for arrays."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.data.sets.convert import convert
from sslood.data.sets.formats import tiny_imagenet as read_tiny_imagenet
from sslood.data.sets.images import read_image
from studies.sets import UNOBTAINABLE
from tests.data.publishing import SOURCES, fetched, mat, noise, offered, picture, tarred


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


@pytest.mark.parametrize("kind", ["", "_crop_fixed", "_resize_fixed", "_resize_aliased"])
def test_tiny_imagenet(server, kind):
    body, _ = tiny_imagenet()
    entry = offered(server, f"tiny_imagenet{kind}", {"tiny-imagenet-200.zip": body}, counts={"test": 4})
    found = fetched(entry)["test"]
    assert found.labels.tolist() == [0, 1, 0, 1] and found.classes == ("goldfish", "bullfrog")
    plain = fetched(replace(entry, crop=0, shrink=0, reader=read_tiny_imagenet))["test"]
    whole = convert(plain.images, 64, 3, "x").transpose(0, 2, 3, 1)
    if kind == "_resize_fixed":
        expected = [Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR) for image in whole]
        assert np.array_equal(found.images, np.stack([np.asarray(image) for image in expected]))
    if kind == "_resize_aliased":
        assert np.array_equal(found.images, whole[:, 1::2, 1::2])
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
    with pytest.raises(InputError, match="label of image 0 does not fit"):
        read_tiny_imagenet({"x": folder}, "test", {})


def lsun(folder, sides):
    (folder / "lsun/test").mkdir(parents=True)
    for number, side in enumerate(sides):
        (folder / f"lsun/test/{number}.webp").write_bytes(picture("WEBP", side, 300, 3))


def test_lsun_from_the_users_folder(tmp_path, monkeypatch):
    lsun(tmp_path, (256, 256))
    monkeypatch.setenv("SSLOOD_DATA_MIRROR", str(tmp_path))
    for kind in ("crop", "resize"):
        found = fetched(SOURCES[f"lsun_{kind}_fixed"])["test"]
        assert found.images.shape == (2, 32, 32, 3) and found.labels.tolist() == [-1, -1]
    (tmp_path / "lsun/test/2.webp").write_bytes(picture("WEBP", 20, 300, 3))
    with pytest.raises(InputError, match=r"2\.webp: smaller than 32x32"):
        fetched(SOURCES["lsun_crop_fixed"])


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
    with pytest.raises(
        InputError, match=f"{UNOBTAINABLE}.*not offered for free download.*SSLOOD_DATA_MIRROR"
    ):
        fetched(SOURCES["imagenet"])
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
    read = fetched(SOURCES["imagenet"], "id")
    assert [pictures.labels.tolist() for pictures in read.values()] == [[0, 1], [0, 1]]
    assert read["test"].classes == ("n01", "n02")
