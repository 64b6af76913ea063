"""A sample of every room's trials goes right, and the kit tells right from wrong."""

import os
import sys
from itertools import islice
from pathlib import Path

import click
import pytest

from sslood.cli.command import Command
from sslood.core.errors import InputError
from tests.trials import kit
from tests.trials.rooms import room, room_names

EVERY = {"finding": 57, "limits": 40}  # room -> one of how many trials runs here; else 25
MOST = 12  # trials of a room that run here


@pytest.mark.parametrize("name", room_names())
def test_a_sample_of_the_trials_goes_right(name: str, tmp_path: Path) -> None:
    sample = islice(room(name).trials(tmp_path), 0, None, EVERY.get(name, 25))
    wrong = {
        trial.name: verdict for trial in islice(sample, MOST) if (verdict := trial.run()).kind != "right"
    }
    assert not wrong


@click.command(cls=Command)
@click.argument("what")
def command(what: str) -> None:
    """Do what is asked."""
    if what == "refuse":
        raise InputError("a.png: cannot be read")
    if what == "break":
        raise AssertionError
    if what == "crash":
        os.kill(os.getpid(), 11)
    if what == "fill":
        bytearray(1100 << 20)
    sys.stdout.write("done")


@pytest.mark.parametrize(
    ("what", "judge", "kind"),
    [
        ("refuse", lambda outcome: kit.refused(outcome, "a.png"), "right"),
        ("refuse", lambda outcome: kit.refused(outcome, "b.png"), "unnamed"),
        ("take", lambda outcome: kit.refused(outcome, "a.png"), "silent"),
        ("take", kit.taken, "right"),
        ("take", lambda outcome: kit.taken(outcome, lambda: "wrong"), "silent"),
        ("refuse", kit.taken, "stopped"),
        ("refuse", lambda outcome: kit.either(outcome, "a.png"), "right"),
        ("break", kit.refused, "traceback"),
        ("crash", kit.refused, "traceback"),
        ("fill", kit.taken, "limits"),
    ],
)
def test_the_kit_tells_right_from_wrong(what: str, judge, kind: str) -> None:
    assert judge(kit.call(command, what)).kind == kind


def test_a_call_prints_what_a_function_returns(tmp_path: Path) -> None:
    assert kit.call(os.getcwd, cwd=tmp_path).output.strip() == str(tmp_path)
