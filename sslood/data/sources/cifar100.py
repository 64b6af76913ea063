"""60,000 colour photographs of 32x32 pixels in 100 classes.

Known to share with cifar10: bus, pickup truck, streetcar and tractor beside CIFAR-10's truck; near
duplicates of single images.
"""

from sslood.data.sets.fetching.published import Published
from sslood.data.sets.formats import cifar
from sslood.data.sets.published_source import PublishedSource

SOURCE = PublishedSource(
    reader=cifar,
    licence="none stated by the publisher; free for research with citation",
    citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    counts={"train": 50000, "test": 10000},
    per_class={"train": 500, "test": 100},
    published=(
        Published(
            name="cifar-100-python.tar.gz",
            sources=("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
            md5="eb9058c3a382ffc7106e4002c42a8d85",
            size=169001437,
            inside="cifar-100-python",
            folders=("cifar-100-python", "cifar100-test"),
        ),
    ),
    options={
        "train": {"train": "16019d7e3df5f24257cddd939b257f8d"},
        "test": {"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        "meta": {"meta": "7973b15100ade9c7d40fb424638fde48"},
        "label_key": "fine_labels",
        "names_key": "fine_label_names",
        "images_only": "test",  # what a mirror's plain folder of images holds
    },
)
