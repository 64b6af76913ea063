"""Describable Textures (DTD), 5,640 photographs in 47 classes."""

from sslood.data.sets.fetching.published import Published
from sslood.data.sets.published_source import PublishedSource
from sslood.data.sets.tree import tree

SOURCE = PublishedSource(
    reader=tree,
    licence="free for research",
    citation="M. Cimpoi et al., Describing Textures in the Wild, CVPR 2014",
    counts={"test": 5640},
    per_class={"test": 120},
    published=(
        Published(
            name="dtd-r1.0.1.tar.gz",
            sources=("https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",),
            md5="fff73e5086ae6bdbea199a49dfb8a4c1",
            size=625239812,
            inside="dtd/images",
            folders=("dtd/images", "dtd", "dtd-short64"),
        ),
    ),
)
