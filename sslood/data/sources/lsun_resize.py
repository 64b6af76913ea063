"""ODIN's LSUN test scenes, shrunk to 32x32 without antialiasing."""

from sslood.data.sets.fetching.published import Published
from sslood.data.sets.published_source import PublishedSource
from sslood.data.sets.tree import tree

SOURCE = PublishedSource(
    reader=tree,
    licence="none stated by the publisher",
    citation=(
        "S. Liang, Y. Li, R. Srikant, Enhancing the Reliability of Out-of-distribution Image Detection "
        "(ODIN), ICLR 2018"
    ),
    counts={"test": 10000},
    published=(
        Published(
            name="LSUN_resize.tar.gz",
            sources=("https://www.dropbox.com/s/moqh2wh8696c3yl/LSUN_resize.tar.gz?dl=1",),
            md5="278b7b31c8cb7e804a1465a8ce03a2dc",
            folders=("LSUN_resize",),
        ),
    ),
    options={"flat": True},
)
