"""Validation images of Tiny ImageNet, 10,000 of 64x64 pixels in 200 classes.

Known to share with cifar10: classes of cats, dogs, frogs, cars, trucks and ships; cifar100: dozens of
classes, e.g. goldfish, bee, orange, school bus.
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
)
