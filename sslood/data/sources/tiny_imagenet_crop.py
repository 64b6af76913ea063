"""ODIN's Tiny ImageNet, randomly cropped to 32x32.

Shares with cifar10 and cifar100 what tiny_imagenet does.
"""

from sslood.data.sets.fetching.published import Published
from sslood.data.sets.published_source import PublishedSource
from sslood.data.sets.tree import tree

SOURCE = PublishedSource(
    reader=tree,
    licence="ImageNet terms (non-commercial research)",
    citation=(
        "S. Liang, Y. Li, R. Srikant, Enhancing the Reliability of Out-of-distribution Image Detection "
        "(ODIN), ICLR 2018"
    ),
    counts={"test": 10000},
    published=(
        Published(
            name="Imagenet.tar.gz",
            sources=("https://www.dropbox.com/s/avgm2u562itwpkl/Imagenet.tar.gz?dl=1",),
            md5="7c0827e4246c3718a5ee076e999e52e5",
            folders=("Imagenet",),
        ),
    ),
    options={"flat": True},
)
