"""108,754 scenes in 397 classes (cut by seed; the publisher's ten partitions are not used).

Known to share with places365: the same kinds of scene.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sslood.data.sets.fetching.published import Published
from sslood.data.sets.formats import read_words
from sslood.data.sets.pictures import Pictures, check_labels
from sslood.data.sets.published_source import PublishedSource
from sslood.data.sets.tree import list_images


def sun397(files: Mapping[str, Path], split: str, options: Mapping[str, Any]) -> Pictures:
    """SUN397: ClassName.txt lists folders as /a/abbey or /a/apartment_building/outdoor."""
    (folder,) = files.values()
    names = folder / "ClassName.txt"
    classes = tuple(line.strip().lstrip("/") for line in read_words(names).splitlines() if line.strip())
    paths = [Path(path) for path in list_images(folder) if os.path.basename(path).startswith("sun_")]
    position = {name: index for index, name in enumerate(classes)}
    found = [position.get(path.relative_to(folder).parent.as_posix(), -1) for path in paths]
    check_labels(names, paths, np.array(found, np.int64), len(classes))
    titles = tuple(name.partition("/")[2] or name for name in classes)
    return Pictures(paths, np.array(found, np.int64), titles)


SOURCE = PublishedSource(
    reader=sun397,
    licence="free for research",
    citation="J. Xiao et al., SUN Database: Large-scale Scene Recognition from Abbey to Zoo, CVPR 2010",
    counts={"all": 108754},
    published=(
        Published(
            name="SUN397.tar.gz",
            sources=(
                "http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
                "https://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
            ),
            md5="8ca2778205c41d23104230ba66911c7a",
            size=39077296924,
            inside="SUN397",
            folders=("SUN397",),
        ),
    ),
)
