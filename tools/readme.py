"""Put the table and the graph of the last run into README.md, between its markers.

    make readme

The table is metrics/headline.md. A test compares README.md with it, so that the README cannot show numbers
that were not measured.
"""

import re
import subprocess
from pathlib import Path

import click

from sslood.cli.command import StageCommand, done
from sslood.core.errors import InputError
from sslood.core.files import save_text


def block(text: str, name: str, content: str) -> str:
    """Return `text` with `content` between <!-- name --> and <!-- end name -->, which must be there."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise InputError(f"README.md: needs exactly one pair <!-- {name} --> and <!-- end {name} -->")
    return pattern.sub(lambda match: match[1] + content.strip() + "\n" + match[2], text)


def graph(root: Path) -> str:
    """Return the stage graph as a Mermaid block, one node per group of stages."""
    command = ["dvc", "dag", "--md", "--collapse-foreach-matrix"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if result.returncode:
        raise InputError(f"`{' '.join(command)}` failed: {result.stderr.strip()}")
    return result.stdout


def render(root: Path) -> str:
    """Return what README.md should be after the last run."""
    text = (root / "README.md").read_text(encoding="utf-8")
    text = block(text, "results", (root / "metrics/headline.md").read_text(encoding="utf-8"))
    return block(text, "graph", graph(root))


@click.command(cls=StageCommand)
def main() -> None:
    """Update README.md from metrics/ and dvc.yaml."""
    save_text("README.md", render(Path.cwd()))
    done("README.md", "it shows the table and the graph of the last run")


if __name__ == "__main__":
    main()
