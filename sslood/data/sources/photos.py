"""Square patches of scikit-learn's two sample photographs, at random places and sizes."""

import numpy as np
from PIL import Image

from sslood.data.sets.images import to_array
from sslood.data.sets.pictures import digest
from sslood.data.sets.source import Drawing, DrawnSource, package_folder

PHOTOS = ("china", "flower")
_FLAT = 10.0  # grey levels; a patch of plain sky shows nothing


def photos(count: int, size: int, channels: int, raster: int, rng: np.random.Generator) -> Drawing:
    """Return (images uint8 [count, channels, size, size], labels [count] into PHOTOS, their digest).

    Square patches, their sides log-uniform from max(size, 32) pixels to the photograph's height, at a
    random place; patches without content (every channel's standard deviation below 10 grey levels) are
    drawn again.
    """
    folder = package_folder("sklearn", "datasets/images")
    pictures = [Image.open(folder / f"{name}.jpg").convert("RGB") for name in PHOTOS]
    images = np.empty((count, channels, size, size), np.uint8)
    labels = np.arange(count) % len(PHOTOS)
    for index, label in enumerate(labels):
        picture = pictures[label]
        longest = min(picture.size)
        shortest = min(max(size, 32), longest)
        while True:
            side = round(np.exp(rng.uniform(np.log(shortest), np.log(longest))))
            left, top = (int(rng.integers(length - side + 1)) for length in picture.size)
            images[index] = to_array(picture.crop((left, top, left + side, top + side)), size, channels)
            if images[index].std((1, 2)).max() >= _FLAT:
                break
    files = [folder / f"{name}.jpg" for name in PHOTOS]
    return images, labels, {"sha256": digest(files, folder)}


SOURCE = DrawnSource(
    licence="CC BY 2.0",
    citation="china.jpg by danielbuechele and flower.jpg by vultilion, shipped with scikit-learn",
    draw=photos,
    classes=PHOTOS,
)
