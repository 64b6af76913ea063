"""The set lsun_resize made again by the one chain: LSUN test scenes, from your folder lsun/test."""

from sslood.data.sets.fetching.published import Published
from sslood.data.sets.published_source import PublishedSource
from sslood.data.sets.tree import tree

SOURCE = PublishedSource(
    reader=tree,
    licence="none stated by the publisher",
    citation="F. Yu et al., LSUN: Construction of a Large-scale Image Dataset using Deep Learning, 2015",
    counts={"test": 10000},
    # a database of its own format: export its images into the mirror's folder
    published=(
        Published(
            name="lsun-test",
            folders=("lsun/test", "LSUN/test"),
        ),
    ),
    options={"flat": True},
    shrink=32,
)
