"""The set tiny_imagenet_resize made again: Tiny ImageNet's validation images, to 32x32 by the one chain.

Shares with cifar10 and cifar100 what tiny_imagenet does.
"""

from sslood.data.sets.formats import TINY_IMAGENET, tiny_imagenet
from sslood.data.sets.published_source import PublishedSource

SOURCE = PublishedSource(
    reader=tiny_imagenet,
    licence="ImageNet terms (non-commercial research)",
    citation="Y. Le and X. Yang, Tiny ImageNet Visual Recognition Challenge, 2015",
    counts={"test": 10000},
    per_class={"test": 50},
    published=(TINY_IMAGENET,),
    shrink=32,
)
