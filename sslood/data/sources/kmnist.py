"""70,000 handwritten characters of classical Japanese of 28x28 pixels, in 10 classes."""

from sslood.data.sets.fetching.published import Published
from sslood.data.sets.formats import idx
from sslood.data.sets.published_source import PublishedSource

SOURCE = PublishedSource(
    reader=idx,
    licence="CC BY-SA 4.0",
    citation="T. Clanuwat et al., Deep Learning for Classical Japanese Literature, 2018",
    counts={"train": 60000, "test": 10000},
    per_class={"train": 6000, "test": 1000},
    published=(
        Published(
            name="train-images-idx3-ubyte.gz",
            sources=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/train-images-idx3-ubyte.gz",),
            md5="bdb82020997e1d708af4cf47b453dcf7",
            size=18165135,
            split="train",
            mirror=("kmnist", "KMNIST/raw"),
        ),
        Published(
            name="train-labels-idx1-ubyte.gz",
            sources=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/train-labels-idx1-ubyte.gz",),
            md5="e144d726b3acfaa3e44228e80efcd344",
            size=29497,
            split="train",
            mirror=("kmnist", "KMNIST/raw"),
        ),
        Published(
            name="t10k-images-idx3-ubyte.gz",
            sources=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/t10k-images-idx3-ubyte.gz",),
            md5="5c965bf0a639b31b8f53240b1b52f4d7",
            size=3041136,
            split="test",
            mirror=("kmnist", "KMNIST/raw"),
        ),
        Published(
            name="t10k-labels-idx1-ubyte.gz",
            sources=("http://codh.rois.ac.jp/kmnist/dataset/kmnist/t10k-labels-idx1-ubyte.gz",),
            md5="7320c461ea6c1c855c0b718fb2a4b134",
            size=5120,
            split="test",
            mirror=("kmnist", "KMNIST/raw"),
        ),
    ),
    options={
        "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
        "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
        "classes": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    },
)
