"""Write pictures that a source draws into folders, one per class in train and val, as ImageNet has them.

    python -m tools.drawn --source letters --count 2300 --size 64 --to scratch/letters

So there is a labelled folder of pictures to try things on where nothing can be downloaded: the profile
stochastic-imagenet-small takes it as its ImageNet. The sixth part of the pictures is for validation. The same
pictures come out every time; a folder that is there is left alone.
"""

import shutil
from pathlib import Path

import click
import numpy as np
from PIL import Image
from tqdm import tqdm

from sslood.cli.command import Command
from sslood.core.errors import InputError
from sslood.core.seeding import numpy_stream
from sslood.data.sets.source import DrawnSource, all_sources, source_named

PARTS = {"train": 5, "val": 1}


def draw_folder(name: str, count: int, size: int, channels: int, to: Path, seed: int = 0) -> int:
    """Write `count` pictures of the source in all below the new folder `to`; return how many classes.

    Raises InputError for a source that draws no classes, too few pictures for them, and a folder `to` that
    is there.
    """
    source = source_named(name, "--source")
    if not isinstance(source, DrawnSource) or not source.classes:
        drawn = (key for key, one in all_sources().items() if isinstance(one, DrawnSource) and one.classes)
        names = ", ".join(drawn)
        raise InputError(f"--source {name!r} draws no pictures with classes; take one of {names}")
    if count < (least := sum(PARTS.values()) * len(source.classes)):
        raise InputError(
            f"--count {count} is too few for {len(source.classes)} classes; take {least} or more"
        )
    if to.exists():
        raise InputError(f"{to}: is there already; name a new folder, or remove it")
    partial = to.with_name(f"{to.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed, perhaps with more pictures
    counts = {part: count * share // sum(PARTS.values()) for part, share in PARTS.items()}
    with tqdm(total=sum(counts.values()), desc="drawn", unit="image", disable=None) as bar:
        for part, number in counts.items():
            rng = numpy_stream(seed, "drawn", name, part)
            images, labels, _ = source.draw(number, size, channels, size, rng)
            for place, (image, label) in enumerate(zip(images, labels, strict=True)):
                file = partial / part / f"{label:02d}_{source.classes[label]}" / f"{place:05d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)).squeeze()).save(file)
                bar.update()
    partial.rename(to)
    return len(source.classes)


@click.command(cls=Command)
@click.option("--source", required=True, help="A source that draws pictures with classes.")
@click.option("--count", default=2300, show_default=True, type=click.IntRange(min=1), help="Pictures in all.")
@click.option("--size", default=64, show_default=True, type=click.IntRange(min=8), help="Pixels of a side.")
@click.option("--channels", default="3", show_default=True, type=click.Choice(["1", "3"]), help="3: colour.")
@click.option("--to", required=True, type=click.Path(path_type=Path), help="New folder.")
def main(source: str, count: int, size: int, channels: str, to: Path) -> None:
    classes = draw_folder(source, count, size, int(channels), to)
    click.echo(f"{to}: train and val, {classes} classes")


if __name__ == "__main__":
    main()
