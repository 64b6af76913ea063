"""Run all trials of bad and awkward input, and print how many went right.

    python -m tests.trials [ROOM ...]

A line for each trial that went wrong, then the table of docs/trials.md. Exit status 1 if any went wrong.
SSLOOD_TEST_MIRROR (real images) and SSLOOD_TEST_PICTURES (a folder of odd pictures, e.g. Tests/images of
Pillow's source) add trials. About ten minutes on two cores; every room can run beside the others.
"""

import sys
import tempfile
from collections import Counter
from pathlib import Path

import click
from tqdm import tqdm

from sslood.cli.command import Command
from tests.trials import kit
from tests.trials.rooms import room, room_names


@click.command(cls=Command)
@click.argument("rooms", nargs=-1, type=click.Choice(room_names()))
def main(rooms: tuple[str, ...]) -> None:
    lines, wrong = [], 0
    for name in rooms or room_names():
        counts = _tried(name)
        wrong += counts.total() - counts["right"]
        cells = [counts.total(), *(counts[kind] for kind in kit.MEANING)]
        lines.append(f"| {room(name).TITLE} | {' | '.join(map(str, cells))} |")
    click.echo(f"| what | tried | {' | '.join(kit.MEANING)} |\n|---{'|---:' * (len(kit.MEANING) + 1)}|")
    click.echo("\n".join(lines))
    sys.exit(wrong > 0)


def _tried(name: str) -> Counter[kit.Kind]:
    """Run the trials of one room; print those that went wrong."""
    counts: Counter[kit.Kind] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        for trial in tqdm(room(name).trials(Path(folder)), desc=name, unit="trial", disable=None):
            verdict = trial.run()
            counts[verdict.kind] += 1
            if verdict.kind != "right":
                click.echo(f"{name}: {trial.name}: {verdict.kind}: {' '.join(verdict.detail.split())}")
    return counts


if __name__ == "__main__":
    main()
