"""Validation images of Places365, 36,500 scenes, shorter side 256.

Known to share with sun397: the same kinds of scene; cifar10: objects of its classes stand in some scenes.
"""

from sslood.data.sets.fetching.published import Published
from sslood.data.sets.published_source import PublishedSource
from sslood.data.sets.tree import tree

SOURCE = PublishedSource(
    reader=tree,
    licence="free for non-commercial research",
    citation="B. Zhou et al., Places: A 10 Million Image Database for Scene Recognition, TPAMI 2018",
    counts={"test": 36500},
    published=(
        Published(
            name="val_256.tar",
            sources=("http://data.csail.mit.edu/places/places365/val_256.tar",),
            md5="e27b17d8d44f4af9a78502beb927f808",
            size=525158400,
            inside="val_256",
            folders=("val_256", "places365/val_256"),
        ),
    ),
    options={"flat": True},
)
