"""What `fit` keeps of a folder of normal pictures: patches of both sides of its split, and their names."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from sslood.core.errors import InputError
from sslood.deploy.maps.keeping import nearest_of_pictures, patches_of_pictures
from sslood.deploy.maps.nearest import MOST, Nearest, keep_nearest, opened
from sslood.deploy.maps.patches import fit_patches
from sslood.deploy.maps.reading import Reader
from sslood.deploy.normal.fit_pictures import fit_pictures
from sslood.deploy.pictures import find_pictures
from sslood.deploy.scorer import load_deployed
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import restore_model, stored
from tests.kit.small import digit_images, model_card


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("normal")
    (folder / "b").mkdir()
    for place, image in enumerate(digit_images()[0][:60]):
        Image.fromarray(image[0]).save(folder / ("b" if place % 2 else ".") / f"{place:02}.png")
    return folder


@pytest.fixture(scope="module")
def fitted(folder):
    with seeded(0):
        backbone = build_backbone("resnet-8-4", channels=1)
    arrays, card = stored({"backbone": backbone}, model_card(), "scratch")
    return fit_pictures(arrays, card, find_pictures(folder), alpha=0.1, detector="knn", flat=True)


def images_of(fitted, rows):
    paths = [fitted.pictures.paths[row] for row in rows]
    return np.stack([np.array(Image.open(path))[None] for path in paths])


def test_patches_are_of_those_that_teach_and_the_scale_of_those_that_calibrate(fitted):
    found, split = patches_of_pictures(fitted, seed=3), fitted.fitted.split
    reader = Reader(load_model(fitted), fitted.card.metadata())
    teach, calibrate = images_of(fitted, split.fit), images_of(fitted, split.calibration)
    expected = fit_patches(reader, [teach], len(teach), [calibrate], seed=3)
    np.testing.assert_array_equal(found.bank, expected.bank)
    assert found.scale == expected.scale and found.scale.images == len(split.calibration) < 60


def load_model(fitted):
    return restore_model(fitted.arrays, fitted.card.metadata(), "m")


def test_each_picture_is_its_own_nearest_by_its_name_in_the_folder(folder, fitted, tmp_path):
    nearest = nearest_of_pictures(fitted)
    assert sorted(nearest.names)[:2] == ["00.png", "02.png"] and "b/01.png" in nearest.names
    fitted.save(tmp_path / "d.safetensors", nearest=nearest)
    again = load_deployed(tmp_path / "d.safetensors").nearest
    for path, (first, *_) in zip(fitted.pictures.paths, again.find(fitted.pictures.features), strict=True):
        assert folder / first.name == path and first.likeness == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("outside", ["absolute", "above"])
def test_pictures_that_a_list_names_elsewhere_are_found_from_their_common_folder(fitted, folder, outside):
    paths = fitted.pictures.paths
    place = folder.parent / f"{outside}-lists" / "normal.csv"
    place.parent.mkdir()
    names = [
        str(path) if outside == "absolute" else f"../{path.relative_to(folder.parent)}" for path in paths
    ]
    place.write_text("\n".join(["path", *names]))
    out = place.with_suffix(".safetensors")
    found = find_pictures(place)
    listed = replace(fitted, pictures=replace(fitted.pictures, paths=found.paths), found=found)
    listed.save(out, nearest=nearest_of_pictures(listed))
    known = opened(folder)
    assert [known(name)[1] for name in load_deployed(out).nearest.names] == [*paths]


def test_what_is_embedded_stays_until_the_file_can_be_read(fitted, folder, tmp_path):
    arrays, card = fitted.arrays, fitted.card
    found, kept = find_pictures(folder), tmp_path / "kept"
    again = fit_pictures(arrays, card, found, alpha=0.1, detector="knn", flat=True, keep=kept)
    with pytest.raises(InputError, match=r"d.safetensors: the nearest ID pictures"):
        again.save(tmp_path / "d.safetensors", nearest=Nearest(np.full((1, 2), np.nan), ("a.png",)))
    assert [*kept.iterdir()]
    again.save(tmp_path / "d.safetensors")
    assert not kept.exists()


def test_of_many_pictures_some_are_kept():
    features = np.random.default_rng(0).normal(size=(MOST + 500, 2))
    nearest = keep_nearest(features, [str(place) for place in range(len(features))])
    assert len(nearest.names) == MOST == len(nearest.vectors)
    assert (nearest.names[0], nearest.names[-1]) == ("0", str(MOST + 499))
    np.testing.assert_allclose(np.linalg.norm(nearest.vectors, axis=1), 1, atol=1e-6)
