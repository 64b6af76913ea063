"""ODIN's iSUN scenes, shrunk to 32x32 without antialiasing."""

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
    counts={"test": 8925},
    published=(
        Published(
            name="iSUN.tar.gz",
            sources=("https://www.dropbox.com/s/ssz7qxfqae0cca5/iSUN.tar.gz?dl=1",),
            # the publisher gives no checksum; this is the one that the package `detectors` compares
            md5="be77b0f2c26fda898afac5f99645ee70",
            folders=("iSUN",),
        ),
    ),
    options={"flat": True},
)
