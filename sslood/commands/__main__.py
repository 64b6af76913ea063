"""Decide for single images whether they are out-of-distribution.

    sslood fit --images normal/ --out mine.safetensors
    sslood score --detector mine.safetensors --images new/ --out scores.csv
    sslood deploy --model MODEL --embeddings EMBEDDINGS --detector knn --alpha 0.05 --out DETECTOR

The same as `python -m sslood.commands.deploy …`, and so on. `sslood COMMAND --help` describes a command.
"""

import ast
from difflib import get_close_matches
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

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            names = self.list_commands(ctx)
            close = get_close_matches(name, names, n=1)
            hint = f" did you mean {close[0]!r}?" if close else f" there are {', '.join(names)}"
            raise click.UsageError(f"No such command {name!r};{hint}", ctx)
        return super().resolve_command(ctx, args)

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


def _version() -> str:
    """Return the version of the package, also where it is not installed."""
    import tomllib  # with the other, a fifth of what a command takes to start
    from importlib import metadata

    project = Path(__file__).parents[2] / "pyproject.toml"
    if project.is_file():
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
    return metadata.version("sslood")


def _say_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        click.echo(f"sslood {_version()}")
        ctx.exit()


main = Commands(name="sslood", help=as_help(__doc__ or ""))
main.params.append(
    click.Option(
        ["--version"],
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_say_version,
        help="Show the version and exit.",
    )
)

if __name__ == "__main__":
    main(prog_name="sslood")
