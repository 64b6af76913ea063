"""ODIN's LSUN test scenes, randomly cropped to 32x32."""

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
            name="LSUN.tar.gz",
            sources=("https://www.dropbox.com/s/fhtsw1m3qxlwj6h/LSUN.tar.gz?dl=1",),
            md5="458a0a0ab8e5f1cb4516d7400568e460",
            folders=("LSUN",),
        ),
    ),
    options={"flat": True},
)
