"""70,000 pictures of clothing of 28x28 pixels."""

from sslood.data.sets.fetching.published import Published
from sslood.data.sets.formats import idx
from sslood.data.sets.published_source import PublishedSource

DEBIAN = ("/usr/share/datasets/fashion-mnist",)  # of the package dataset-fashion-mnist

SOURCE = PublishedSource(
    reader=idx,
    licence="MIT",
    citation="H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST: a Novel Image Dataset, 2017",
    counts={"train": 60000, "test": 10000},
    per_class={"train": 6000, "test": 1000},
    published=(
        Published(
            name="train-images-idx3-ubyte.gz",
            sources=(
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-images-idx3-ubyte.gz",
            ),
            md5="8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            size=26421880,
            content="c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            installed=DEBIAN,
            split="train",
            mirror=("fashion-mnist", "FashionMNIST/raw"),
        ),
        Published(
            name="train-labels-idx1-ubyte.gz",
            sources=(
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/train-labels-idx1-ubyte.gz",
            ),
            md5="25c81989df183df01b3e8a0aad5dffbe",
            size=29515,
            content="bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            installed=DEBIAN,
            split="train",
            mirror=("fashion-mnist", "FashionMNIST/raw"),
        ),
        Published(
            name="t10k-images-idx3-ubyte.gz",
            sources=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-images-idx3-ubyte.gz",),
            md5="bef4ecab320f06d8554ea6380940ec79",
            size=4422102,
            content="5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            installed=DEBIAN,
            split="test",
            mirror=("fashion-mnist", "FashionMNIST/raw"),
        ),
        Published(
            name="t10k-labels-idx1-ubyte.gz",
            sources=("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/t10k-labels-idx1-ubyte.gz",),
            md5="bb300cfdad3c16e7a12a480ee83cd310",
            size=5148,
            content="0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            installed=DEBIAN,
            split="test",
            mirror=("fashion-mnist", "FashionMNIST/raw"),
        ),
    ),
    options={
        "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        "classes": (
            "T-shirt/top",
            "Trouser",
            "Pullover",
            "Dress",
            "Coat",
            "Sandal",
            "Shirt",
            "Sneaker",
            "Bag",
            "Ankle boot",
        ),
    },
)
