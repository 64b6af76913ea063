"""Fit and calibrate a detector on a folder of normal pictures, without labels, training or DVC.

    python -m sslood.commands.fit --images normal/ --out mine.safetensors
    python -m sslood.commands.score --detector mine.safetensors --images new/ --out scores.csv
        --html gallery.html

A frozen pretrained network gives the features (docs/backbones.md). Some of the pictures calibrate the
threshold: of new pictures like them, at most the share --alpha is called OOD. The others teach the detector,
which is chosen on distorted copies of them. One folder for each class makes it conditional on the classes,
and `score` names them; --flat where the folders are no classes. --bad FOLDER names known bad pictures, one or
more; it may be repeated, and what resembles them is OOD too. Pictures that are copies of one another are
found and kept apart. 1,000 pictures take half a minute on two CPU cores: docs/own.md. Interrupted, the same
command goes on: what is embedded lies in OUT.partial until the file is written.

    python -m sslood.commands.fit --vectors FILE.parquet --labels COLUMN --out mine.safetensors

does the same with vectors of a network that runs elsewhere: docs/vectors.md.
"""

from pathlib import Path
from typing import get_args

import click

from sslood.cli.command import Command, done
from sslood.cli.output import OutputFile, check_apart
from sslood.core.errors import InputError
from sslood.core.machine import machine
from sslood.core.names import shown
from sslood.data.sets.images import Square
from sslood.deploy.catches import in_a_phrase
from sslood.deploy.maps.keeping import nearest_of_pictures, patches_of_pictures
from sslood.deploy.measured import parse_given
from sslood.deploy.normal.fit_pictures import FittedPictures, fit_folder
from sslood.deploy.normal.kept import left_for_the_next
from sslood.deploy.tables.fitted import FittedVectors, fit_file
from sslood.ood.measures.conformal import images_needed

PLACE = click.Path(path_type=Path)


@click.command(cls=Command)
@click.option("--images", type=PLACE, help="Normal pictures: a folder, or a list of paths.")
@click.option("--vectors", type=PLACE, help="Vectors in place of pictures: .npy, .safetensors or .parquet.")
@click.option(
    "--column", help="Column or tensor that holds the vectors, or a pattern of several, e.g. emb_*."
)
@click.option("--ids", help="Column of the vectors' IDs, or a file of them, one per line.")
@click.option("--labels", help="Column or tensor of their classes, or a .npy or .txt file.")
@click.option("--logits", help="Column or tensor of a classifier's outputs, or a .npy file.")
@click.option("--classes", type=PLACE, help="File with the names of the classes, in the order of the logits.")
@click.option("--backbone", help="Pretrained network (default: the one in an installed package).")
@click.option("--weights", help="Its weights: a file, or an address with #sha256=… (default: its own).")
@click.option(
    "--square",
    type=click.Choice(get_args(Square)),
    help="Way of pictures to a square: crop loses the ends, pad adds bars (default: its own).",
)
@click.option("--size", type=click.IntRange(8), help="Pixels of its images (default: as it was trained).")
@click.option(
    "--mirror", is_flag=True, help="Look at each picture and its mirror image, in twice the network's time."
)
@click.option(
    "--shift",
    default=0,
    type=click.IntRange(0),
    help="Look at each picture moved by so many pixels too, in three times the network's time.",
)
@click.option(
    "--alpha", default=0.05, show_default=True, type=float, help="Share of normal pictures called OOD."
)
@click.option(
    "--detector",
    default=["auto"],
    show_default=True,
    multiple=True,
    help="auto: chosen on pictures that are not calibrated on; several, each by its own option, are summed.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    help="DETECTOR.SETTING=VALUE in place of one that would be chosen, of a --detector.",
)
@click.option(
    "--bad", multiple=True, type=PLACE, help="Known bad pictures (folder, list or picture) or vectors."
)
@click.option("--odd", multiple=True, type=PLACE, help="Vectors of others: what it catches of them is said.")
@click.option("--flat", is_flag=True, help="Inner folders are no classes.")
@click.option(
    "--per_class", is_flag=True, help="A threshold for each predicted class, which holds the rate within it."
)
@click.option("--skip_unreadable", is_flag=True, help="Leave out what cannot be read, or is NaN.")
@click.option("--maps", is_flag=True, help="Keep patches of them, for the heat maps of `score`.")
@click.option("--seed", default=0, show_default=True, help="Seed of the split and the distortions.")
@click.option("--out", required=True, type=OutputFile(), help="Detector file to write.")
def main(
    images,
    vectors,
    backbone,
    weights,
    size,
    square,
    mirror,
    shift,
    alpha,
    detector,
    assignments,
    bad,
    flat,
    per_class,
    skip_unreadable,
    maps,
    seed,
    out,
    **of_vectors,
) -> None:
    read_from = {"images": images, "vectors": vectors, "weights": weights, "bad": bad, **of_vectors}
    for option, given in read_from.items():
        for place in given if isinstance(given, tuple) else [given]:
            check_apart(**{option: place}, out=out)
    images_needed(alpha)  # refuses an alpha that is no rate
    if (images is None) == (vectors is None):
        raise InputError("give --images or --vectors, what is normal, and not both")
    names = _named(detector)
    if assignments and not names:
        raise InputError(f"--set {assignments[0]}: name its detector by --detector, since auto chooses")
    options = {
        "alpha": alpha,
        "detector": names or "auto",
        "given": parse_given(assignments, names),
        "bad": bad,
        "per_class": per_class,
        "seed": seed,
        "device": str(machine().device),
    }
    found: FittedPictures | FittedVectors
    if vectors is not None:
        of_images = {"backbone": backbone, "weights": weights, "size": size, "square": square}
        of_images |= {"mirror": mirror, "shift": shift, "flat": flat, "maps": maps}
        if wrong := [name for name, value in of_images.items() if value]:
            raise InputError(f"--{wrong[0]} is of --images; omit it with --vectors")
        found = fit_file(vectors, skip=skip_unreadable, **of_vectors, **options)
        found.save(out)
    else:
        if given := [name for name, value in of_vectors.items() if value]:
            raise InputError(f"--{given[0]} is of --vectors; omit it with --images")
        network = {"backbone": backbone, "weights": weights, "size": size, "square": square}
        how = {"flat": flat, "mirror": mirror, "shift": shift, "skip_unreadable": skip_unreadable}
        partial = Path(f"{out}.partial")
        with left_for_the_next(partial):
            found = fit_folder(images, keep=partial, **how, **network, **options)
            patches = patches_of_pictures(found, seed=seed, device=options["device"]) if maps else None
            found.save(out, patches=patches, nearest=nearest_of_pictures(found))
    calibrated = found.fitted.calibrated
    for note in found.notes:
        click.echo(shown(note), err=True)
    for line in found.describe():
        click.echo(line)
    for line in calibrated.warnings():
        click.echo(f"Warning: {line}.", err=True)
    normal = f"new normal {'pictures' if vectors is None else 'vectors'}"
    done(
        out,
        f"{calibrated.name} on {found.card.name}, {calibrated.promise(normal, 'that calibrate')}; "
        f"{in_a_phrase(calibrated.catches)}",
    )


def _named(detector: tuple[str, ...]) -> tuple[str, ...]:
    """Return the detectors that are named, () for auto; InputError for auto with others, or one twice."""
    if detector == ("auto",):
        return ()
    if "auto" in detector:
        raise InputError("--detector auto chooses by itself; omit it, or the detectors that are named")
    if len(set(detector)) < len(detector):
        raise InputError(f"--detector names one twice: {', '.join(detector)}")
    return detector


if __name__ == "__main__":
    main()
