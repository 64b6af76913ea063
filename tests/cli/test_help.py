"""`--help` of every script says what it does, with an example; the last line of each says what it wrote."""

import re
from importlib import import_module

import click
import pytest

from sslood.cli.command import Command, as_help, done
from sslood.core.closure import TOP

STAGES = sorted(f"stages.{file.stem}" for file in (TOP / "stages").glob("[!_]*.py"))
COMMANDS = sorted(f"sslood.commands.{file.stem}" for file in (TOP / "sslood/commands").glob("[!_]*.py"))


def words(text):
    return " ".join(text.split())


@pytest.mark.parametrize("name", STAGES + COMMANDS)
def test_help_starts_with_what_the_script_does_and_has_an_example(name):
    module = import_module(name)
    usage, text = module.main.get_help(click.Context(module.main, info_name=name)).split("\n", 1)
    assert usage.startswith("Usage: ")
    assert words(text).startswith(words(module.__doc__.split("\n\n")[0]))
    example = "dvc repro " if name in STAGES else f"python -m {name} "
    assert re.search(rf"^ {{4,}}({example}|python -m {name} )", text, re.MULTILINE), text


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_an_option_is_more_than_a_word(name):
    found = {one.name: one.help for one in import_module(name).main.params if isinstance(one, click.Option)}
    assert not [option for option, text in found.items() if len((text or "").split()) < 2]


@pytest.mark.parametrize("name", [name for name in STAGES + COMMANDS if not name.endswith(".serve")])
def test_the_last_line_is_the_same_sentence_everywhere(name):
    source = (TOP / (name.replace(".", "/") + ".py")).read_text()
    assert "done(" in source and not re.search(r"echo\(f?\"[Ww]rote", source)


def test_paragraphs_of_a_docstring_keep_their_lines_where_they_are_indented():
    text = "What it\ndoes.\n\n    python -m x\n        --y\n\nMore of\nit.\n"
    assert as_help(text) == "What it\ndoes.\n\n\b\n    python -m x\n        --y\n\nMore of\nit."


def test_done(capsys):
    done("x.json", "3 rows")
    assert capsys.readouterr().out == "Wrote x.json: 3 rows.\n"


@pytest.mark.parametrize("arguments", [["--old", "3"], ["--no-old"]])
def test_an_option_of_before_is_answered_with_what_to_write_now(arguments, capsys):
    @click.command(cls=Command, formerly={"old": "write --new"})
    @click.option("--new")
    def command(new):
        pass

    with pytest.raises(SystemExit) as ended:
        command.main(arguments)
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"Error: {arguments[0]} is gone: write --new\n"
