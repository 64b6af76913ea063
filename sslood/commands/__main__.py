"""Decide for single images whether they are out-of-distribution.

    sslood deploy --model MODEL --embeddings EMBEDDINGS --detector knn --alpha 0.05 --out DETECTOR
    sslood score --detector DETECTOR --images FOLDER --out scores.csv

The same as `python -m sslood.commands.deploy …`, and so on. `sslood COMMAND --help` describes a command.
"""

import ast
from importlib import import_module
from pathlib import Path

import click

from sslood import commands
from sslood.cli.command import as_help, run_to_exit, wait_asleep
from sslood.core.discovery import names_in


class Commands(click.Group):
    """The modules beside this one as subcommands, each imported only when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return names_in(commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"sslood.commands.{cmd_name}").main
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_sentence(name)) for name in self.list_commands(ctx)])

    def main(self, *args, **kwargs):
        wait_asleep()  # the installed command is no module that was run, so `prepare` does not know it
        return run_to_exit(self, super().main, args, kwargs)


def _first_sentence(name: str) -> str:
    """Return the first paragraph of a command's docstring, without importing it."""
    source = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
    return " ".join((ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].split())


main = Commands(name="sslood", help=as_help(__doc__ or ""))

if __name__ == "__main__":
    main(prog_name="sslood")
