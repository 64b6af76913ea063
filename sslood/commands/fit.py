"""Fit and calibrate a detector on a folder of normal pictures, without labels, training or DVC.

    sslood fit --images normal/ --out mine.safetensors
    sslood score --detector mine.safetensors --images new/ --out scores.csv --html gallery.html

A frozen pretrained network gives the features (docs/backbones.md). Some of the pictures calibrate the
threshold: of new pictures like them, at most the share --alpha is called OOD. The others teach the detector,
which is chosen on distorted copies of them. One folder for each class makes it conditional on the classes,
and `score` names them; --flat where the folders are no classes. --bad FOLDER names known bad pictures, one or
more; it may be repeated, and what resembles them is OOD too. Pictures that are copies of one another are
found and kept apart. 1,000 pictures take about a minute on two CPU cores: docs/own.md.
"""

from pathlib import Path

import click

from sslood.cli.command import Command, done
from sslood.cli.output import OutputFile, check_apart
from sslood.core.machine import machine
from sslood.core.names import shown
from sslood.deploy.catches import in_a_phrase
from sslood.deploy.maps.keeping import nearest_of_pictures, patches_of_pictures
from sslood.deploy.normal.fit_pictures import fit_folder
from sslood.deploy.pictures import find_pictures
from sslood.ood.measures.conformal import images_needed

PLACE = click.Path(path_type=Path)


@click.command(cls=Command)
@click.option("--images", required=True, type=PLACE, help="Normal pictures: a folder, or a list of paths.")
@click.option("--backbone", help="Pretrained network (default: the one in an installed package).")
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
@click.option("--bad", multiple=True, type=PLACE, help="Known bad pictures: a folder, list or picture.")
@click.option("--flat", is_flag=True, help="Inner folders are no classes.")
@click.option("--skip_unreadable", is_flag=True, help="Leave out pictures that cannot be read.")
@click.option("--maps", is_flag=True, help="Keep patches of them, for the heat maps of `score`.")
@click.option("--seed", default=0, show_default=True, help="Seed of the split and the distortions.")
@click.option("--out", required=True, type=OutputFile(), help="Detector file to write.")
def main(images, backbone, alpha, detector, bad, flat, skip_unreadable, maps, seed, out) -> None:
    check_apart(images=images, out=out)
    images_needed(alpha)  # refuses an alpha that is no rate
    device = str(machine().device)
    found = fit_folder(
        images,
        alpha=alpha,
        backbone=backbone,
        detector="auto" if detector == ("auto",) else detector,
        bad=bad,
        flat=flat,
        skip_unreadable=skip_unreadable,
        seed=seed,
        device=device,
    )
    patches = patches_of_pictures(found, seed=seed, device=device) if maps else None
    found.save(out, patches=patches, nearest=nearest_of_pictures(found, find_pictures(images)))
    calibrated, threshold = found.fitted.calibrated, found.fitted.calibrated.threshold
    for note in found.notes:
        click.echo(shown(note), err=True)
    for line in found.describe():
        click.echo(line)
    for line in calibrated.warnings():
        click.echo(f"Warning: {line}.", err=True)
    done(
        out,
        f"{calibrated.name} on {found.card.name}, OOD is above {threshold.value:.6g}; {alpha:.3g} of new "
        f"normal pictures will be called OOD ({threshold.low:.3f} to {threshold.high:.3f}, from "
        f"{threshold.images} that calibrate); {in_a_phrase(calibrated.catches)}",
    )


if __name__ == "__main__":
    main()
