"""Put the results and the graph of the last run into README.md, between its markers, and draw its picture.

    make readme

Tests compare README.md and the picture with metrics/, so they cannot show numbers that were not measured.
"""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import click

from sslood.cli.command import Command, done
from sslood.core.errors import InputError
from sslood.core.files import save_text
from tools import picture

PICTURE = Path("docs/quickstart.svg")


def block(text: str, name: str, content: str) -> str:
    """Return `text` with the lines between <!-- name --> and <!-- end name --> replaced."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end {name} -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise InputError(f"README.md: needs exactly one pair <!-- {name} --> and <!-- end {name} -->")
    return pattern.sub(lambda match: match[1] + content.strip() + "\n" + match[2], text)


def fold(text: str) -> str:
    """Return Markdown with its paragraphs folded at 118 characters; tables stay."""
    return "\n".join(line if line.startswith("|") else textwrap.fill(line, 118) for line in text.split("\n"))


def graph(root: Path) -> str:
    """Return the stage graph as a Mermaid block: a node per group of stages, a line per node with arrows."""
    command = [sys.executable, "-m", "dvc", "dag", "--md", "--collapse-foreach-matrix"]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if result.returncode:
        raise InputError(f"`dvc {' '.join(command[3:])}` failed: {result.stderr.strip()}")
    names = dict(re.findall(r'(node\d+)\["(.+?)"\]', result.stdout))
    arrows = re.findall(r"(node\d+)-->(node\d+)", result.stdout)
    lines = ["```mermaid", "flowchart LR"]
    for name in sorted(names, key=lambda key: names[key]):
        aims = sorted(names[aim] for start, aim in arrows if start == name)
        if aims:
            lines.append(f"  {names[name]} --> {' & '.join(aims)}")
    return "\n".join([*lines, "```"])


def render(root: Path) -> str:
    """Return what README.md should be after the last run."""
    text = (root / "README.md").read_text(encoding="utf-8")
    text = block(text, "results", fold((root / "metrics/headline.md").read_text(encoding="utf-8")))
    return block(text, "graph", graph(root))


@click.command(cls=Command)
def main() -> None:
    root = Path.cwd()
    save_text("README.md", render(root))
    save_text(PICTURE, picture.render(root))
    done("README.md", f"the results and the graph of the last run; {PICTURE} shows them too")


if __name__ == "__main__":
    main()
