"""Which boxes of a picture are OOD: rooms of houses, into which things from elsewhere were put.

    python -m benchmarks.boxes --mirror FOLDER    # 2 minutes on 2 cores

FOLDER holds photographs as photos/houses/*/ and photos/imagenet-samples/. Of every picture of a room a few
boxes count as what a detector found. Ours is fitted and calibrated on the boxes of one half of
them. In every second one of the other half a photograph of something else fills one box. It prints, per box
and per picture, the AUROC with its interval (DeLong) and the shares called OOD with theirs (Clopper-Pearson),
and keeps the pictures, lists and the gallery in --out.
"""

import csv
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
from PIL import Image
from scipy.stats import binomtest

from sslood.ood.measures.intervals import delong_interval
from sslood.ood.measures.metrics import ood_metrics

BOXES, SIDES = 4, (64, 128)  # per picture, and the range of their sides in pixels
Edges = tuple[int, int, int, int]


def boxes_of(width: int, height: int, rng: np.random.Generator) -> list[Edges]:
    """Return BOXES boxes that do not overlap, or as many as find room in a hundred tries."""
    found: list[Edges] = []
    for _ in range(100):
        w, h = rng.integers(*SIDES, size=2, endpoint=True)
        left, top = (int(rng.integers(0, side - own + 1)) for side, own in ((width, w), (height, h)))
        edges = (left, top, left + int(w), top + int(h))
        apart = all(
            edges[2] <= x0 or edges[0] >= x1 or edges[3] <= y0 or edges[1] >= y1 for x0, y0, x1, y1 in found
        )
        if apart:
            found.append(edges)
        if len(found) == BOXES:
            break
    return found


def write_pictures(mirror: Path, out: Path) -> None:
    """Write both halves of the pictures, with normal.csv and new.csv, whose column `strange` is the truth."""
    rng = np.random.default_rng(0)
    rooms = sorted((mirror / "photos" / "houses").rglob("*.jpg"))
    things = sorted((mirror / "photos" / "imagenet-samples").glob("*.JPEG"))
    rooms = [rooms[place] for place in rng.permutation(len(rooms))]
    half = len(rooms) // 2
    for name, some in (("normal", rooms[:half]), ("new", rooms[half:])):
        (out / name).mkdir(parents=True, exist_ok=True)
        with open(out / f"{name}.csv", "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "x0", "y0", "x1", "y1", "strange"])
            for number, path in enumerate(some):
                picture = Image.open(path).convert("RGB")
                edges = boxes_of(*picture.size, rng)
                strange = int(rng.integers(len(edges))) if name == "new" and number % 2 else None
                if strange is not None:
                    x0, y0, x1, y1 = edges[strange]
                    thing = Image.open(things[rng.integers(len(things))]).convert("RGB")
                    picture.paste(thing.resize((x1 - x0, y1 - y0), Image.Resampling.LANCZOS), (x0, y0))
                picture.save(out / name / f"{number:03}.png")
                for place, box in enumerate(edges):
                    writer.writerow([f"{name}/{number:03}.png", *box, int(place == strange)])


def said(what: str, flags: np.ndarray) -> str:
    """Return a share with its interval."""
    low, high = binomtest(int(flags.sum()), len(flags)).proportion_ci()
    return f"{what} {flags.mean():.1%} ({low:.1%} to {high:.1%}, n = {len(flags)})"


def report(scores: np.ndarray, strange: np.ndarray, flags: np.ndarray, of: str) -> None:
    """Print what scores and decisions [N] are worth against the truth."""
    low, high = delong_interval(scores[~strange], scores[strange])
    auroc = ood_metrics(scores[~strange], scores[strange])["auroc"]
    click.echo(f"per {of}: AUROC {auroc:.3f} ({low:.3f} to {high:.3f})")
    click.echo(f"  {said('called OOD of the strange', flags[strange])}; {said('of others', flags[~strange])}")


def command(name: str, *words: str) -> None:
    """Run a command of the library as a person does."""
    subprocess.run([sys.executable, "-m", f"sslood.commands.{name}", *words], check=True)


def table(path: Path) -> dict[str, np.ndarray]:
    """Return the columns of a CSV file."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


@click.command()
@click.option("--mirror", required=True, envvar="SSLOOD_DATA_MIRROR", type=click.Path(path_type=Path))
@click.option("--out", default="boxes", show_default=True, type=click.Path(path_type=Path))
def main(mirror: Path, out: Path) -> None:
    write_pictures(mirror, out)
    detector = str(out / "boxes.safetensors")
    words = ["--images", str(out / "normal.csv"), "--out", detector]
    command("fit", *words)
    words = ["--detector", detector, "--images", str(out / "new.csv"), "--out", str(out / "scores.csv")]
    words += ["--by_image", str(out / "images.csv"), "--html", str(out / "gallery.html")]
    command("score", *words)
    boxes = table(out / "scores.csv")
    strange = boxes["strange"] == "1"
    report(boxes["score"].astype(float), strange, boxes["is_ood"] == "true", "box")
    pictures = table(out / "images.csv")
    odd = {path for path, flag in zip(boxes["path"], strange, strict=True) if flag}
    among = np.array([path in odd for path in pictures["path"]])
    report(pictures["score"].astype(float), among, pictures["is_ood"] == "true", "picture")


if __name__ == "__main__":
    main()
