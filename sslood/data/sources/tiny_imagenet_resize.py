"""ODIN's Tiny ImageNet, shrunk to 32x32 without antialiasing.

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
            name="Imagenet_resize.tar.gz",
            sources=("https://www.dropbox.com/s/kp3my3412u5k9rl/Imagenet_resize.tar.gz?dl=1",),
            md5="0f9ff11d45babf2eff5fe12281d1ac31",
            folders=("Imagenet_resize",),
        ),
    ),
    options={"flat": True},
)
