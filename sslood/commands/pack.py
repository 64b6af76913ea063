"""Write the pictures of a folder or list as chunks for streamed training, and the set file that names them.

    python -m sslood.commands.pack --name photos --images FOLDER --size 224 --to chunks/photos
        --out data/sets/photos.safetensors
    aws s3 sync chunks/photos s3://bucket/photos
    SSLOOD_STREAM=s3://bucket/photos python -m stages.pretrain --id_set data/sets/photos.safetensors …

Every picture passes the chain of all sets once and is stored as its pixels, so training decodes nothing and
sees the bytes that a set file would hold: 150 kB an image at 224 pixels. --epoch N makes N images an epoch:
a run saves its state after each, so a long pass may be ended anywhere (docs/scale.md).
"""

from pathlib import Path
from typing import Any, get_args

import click
from tqdm import tqdm

from sslood.cli.command import ANEW, Command, done
from sslood.cli.output import OutputFile
from sslood.core.files import save_tensors
from sslood.data.sets.images import Square

FOLDER = click.Path(path_type=Path)


@click.command(cls=Command, again=ANEW)
@click.option("--name", required=True, help="Name of the set.")
@click.option(
    "--images", required=True, type=FOLDER, help="Folder (with a folder per class, or flat) or list."
)
@click.option("--size", required=True, type=click.IntRange(min=1), help="Pixels of a side.")
@click.option("--channels", default=3, show_default=True, type=click.Choice([1, 3]), help="Grey or colour.")
@click.option(
    "--square",
    default="crop",
    show_default=True,
    type=click.Choice(get_args(Square)),
    help="Way of pictures to a square: crop loses the ends, pad adds bars, squash distorts.",
)
@click.option(
    "--validation", default=0.02, show_default=True, type=click.FloatRange(0, 1), help="Share held out."
)
@click.option("--epoch", type=click.IntRange(min=1), help="Images of an epoch [default: all].")
@click.option("--seed", default=0, show_default=True, help="Seed of the split and of the order.")
@click.option("--skip_unreadable", is_flag=True, help="Leave out pictures that cannot be read.")
@click.option("--to", required=True, type=FOLDER, help="New folder of the chunks.")
@click.option("--out", required=True, type=OutputFile(), help="Set file to write.")
def main(name, images, skip_unreadable, to, out, **options) -> None:
    from sslood.deploy.engine.packing import pack_pictures

    unreadable: list[Path] | None = [] if skip_unreadable else None
    with tqdm(desc="pack", unit="image", disable=None) as bar:
        given: dict[str, Any] = {**options, "unreadable": unreadable, "progress": bar.update}
        tensors, metadata = pack_pictures(name, images, to, **given)
    save_tensors(out, tensors, kind="set", metadata=metadata)
    counts = metadata["splits"]
    left = f", {len(unreadable)} could not be read" if unreadable else ""
    done(out, f"{counts['train']} training images in {to}, {counts['validation']} for validation{left}")


if __name__ == "__main__":
    main()
