"""Leave-out members against a deep ensemble at equal temperatures, without a step: AUROC of `eloc`, paired.

    python -m benchmarks.members scratch/studies/cifar10-cpu/ensemble/data

The folder is that of the study's part `ensemble`, with sets/ and models/leaveout/fast-KIND/. A leave-out
ensemble chooses its temperature on the classes that its members leave out; a deep ensemble has none and stays
at 1. Here all are asked at either temperature. A difference is that of the deep ensemble less the leave-out
ensemble on the same images, in points, with DeLong's paired 95 % interval. Three minutes of one core.
"""

from functools import reduce
from operator import add
from pathlib import Path

import click
import numpy as np

from sslood.core.files import load_tensors
from sslood.core.machine import machine
from sslood.ood.measures.comparison import Scores, delong_test
from sslood.ood.measures.metrics import ood_metrics
from sslood.views.ensemble import Setting, ask
from sslood.views.members import load_members

SETTINGS = (Setting(1.0), Setting(1000.0))
DEEP, KINDS = "full", ("margin", "plain")
ID = "cifar10"
OOD = ("cifar100", "tiny_imagenet_others", "textures", "mnist")


def scores(
    folder: Path, tests: dict[str, np.ndarray], metas: list[dict]
) -> dict[Setting, dict[str, np.ndarray]]:
    """Return setting -> set -> `eloc`, higher is more OOD, of the members in a folder."""
    device = machine("float32").device
    ensemble, _ = load_members(folder, metas, device, "float32")
    found: dict[Setting, dict[str, np.ndarray]] = {setting: {} for setting in SETTINGS}
    for name, images in tests.items():
        answers = [ask(one, images, list(SETTINGS), device=device) for one in ensemble]
        for place, setting in enumerate(SETTINGS):
            found[setting][name] = reduce(add, (answer.votes[place] for answer in answers)).score
    return found


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(data: Path) -> None:
    """Print a line per ensemble and temperature, and one per difference."""
    paths = {name: data / "sets" / f"{name}.safetensors" for name in (ID, *OOD)}
    read = {name: load_tensors(path, kind="set") for name, path in paths.items()}
    tests = {name: part["test.images"] for name, (part, _) in read.items()}
    metas = [dict(metadata) for _, metadata in read.values()]
    found = {}
    for kind in (DEEP, *KINDS):
        found[kind] = scores(data / "models" / "leaveout" / f"fast-{kind}", tests, metas)
        for setting, every in found[kind].items():
            aurocs = [100 * ood_metrics(every[ID], every[name])["auroc"] for name in OOD]
            cells = ", ".join(f"{name} {value:.1f}" for name, value in zip(OOD, aurocs, strict=True))
            print(f"{kind}, T = {setting.temperature:g}: {cells}", flush=True)
    for kind in KINDS:
        for deep in SETTINGS:
            pairs = [found[kind][SETTINGS[1]], found[DEEP][deep]]
            cells = []
            for name in OOD:
                gap = delong_test(*(Scores(one[ID], one[name]) for one in pairs))
                cells.append(f"{name} {100 * gap.value:+.1f} [{100 * gap.low:.1f}, {100 * gap.high:.1f}]")
            print(f"{DEEP} at T = {deep.temperature:g} less {kind} at T = 1000: {', '.join(cells)}")


if __name__ == "__main__":
    main()
