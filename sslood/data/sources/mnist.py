"""70,000 handwritten digits of 28x28 pixels.

Known to share with digits: the same ten classes, of other writers; svhn: the same ten classes, of house
numbers.
"""

from sslood.data.sets.fetching.published import Published
from sslood.data.sets.formats import idx
from sslood.data.sets.published_source import PublishedSource

SOURCE = PublishedSource(
    reader=idx,
    licence="none stated by the publisher",
    citation=(
        "Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, Gradient-based learning applied to document "
        "recognition, 1998"
    ),
    counts={"train": 60000, "test": 10000},
    per_class={
        "train": (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949),
        "test": (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009),
    },
    published=(
        Published(
            name="train-images-idx3-ubyte.gz",
            sources=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz",
                "http://yann.lecun.com/exdb/mnist/train-images-idx3-ubyte.gz",
            ),
            md5="f68b3c2dcbeaaa9fbdd348bbdeb94873",
            size=9912422,
            split="train",
            mirror=("mnist", "MNIST/raw"),
        ),
        Published(
            name="train-labels-idx1-ubyte.gz",
            sources=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/train-labels-idx1-ubyte.gz",
                "http://yann.lecun.com/exdb/mnist/train-labels-idx1-ubyte.gz",
            ),
            md5="d53e105ee54ea40749a09fcbcd1e9432",
            size=28881,
            split="train",
            mirror=("mnist", "MNIST/raw"),
        ),
        Published(
            name="t10k-images-idx3-ubyte.gz",
            sources=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-images-idx3-ubyte.gz",
                "http://yann.lecun.com/exdb/mnist/t10k-images-idx3-ubyte.gz",
            ),
            md5="9fb629c4189551a2d022fa330f9573f3",
            size=1648877,
            split="test",
            mirror=("mnist", "MNIST/raw"),
        ),
        Published(
            name="t10k-labels-idx1-ubyte.gz",
            sources=(
                "https://ossci-datasets.s3.amazonaws.com/mnist/t10k-labels-idx1-ubyte.gz",
                "http://yann.lecun.com/exdb/mnist/t10k-labels-idx1-ubyte.gz",
            ),
            md5="ec29112dd5afa0611ce80d1b7f02629c",
            size=4542,
            split="test",
            mirror=("mnist", "MNIST/raw"),
        ),
    ),
    options={
        "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        "classes": ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
    },
)
