"""Settings say their limits, meaning and type once, and every wrong value is answered with its key."""

from dataclasses import dataclass
from typing import Annotated, Literal

import click
import pytest
from click.testing import CliRunner

from sslood.cli.options import read_settings, setting_options
from sslood.core.errors import InputError
from sslood.core.settings import Auto, Settings, above, at_least, between, inside, strict


@dataclass(frozen=True)
class Example(Settings):
    """One field of each kind."""

    k: Annotated[int | Auto, at_least(1), "neighbours"] = "auto"
    share: Annotated[float, inside(0, 1), "share of the dimensions"] = 0.5
    lr: Annotated[float, above(0), "learning rate"] = 0.1
    momentum: Annotated[float, between(0, 1)] = 0.9
    epochs: Annotated[tuple[int, ...], at_least(1), "milestones"] = ()
    form: Annotated[Literal["a", "b"], "which form"] = "a"
    flip: Annotated[bool, "mirror"] = False
    plain: str = "x"

    def _check(self) -> None:
        if self.form == "b" and self.flip:
            raise InputError("form b does not flip")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"k": 0}, "knn.k must be at least 1, found 0"),
        ({"k": "many"}, "knn.k: must be of type int or auto, found 'many'"),
        ({"k": True}, "knn.k: must be of type int or auto, found True"),
        ({"share": 1.0}, "knn.share must be above 0 and below 1, found 1.0"),
        ({"lr": 0}, "knn.lr must be above 0, found 0.0"),
        ({"lr": float("nan")}, "knn.lr must be above 0, found nan"),
        ({"lr": float("inf")}, "knn.lr must be above 0, found inf"),
        ({"momentum": 1.5}, "knn.momentum must be at least 0 and at most 1, found 1.5"),
        ({"epochs": [3, 0]}, "knn.epochs must be at least 1, found 0"),
        ({"epochs": 3}, "knn.epochs: must be a list, found 3"),
        ({"form": "c"}, "knn.form: must be one of a, b, found 'c'"),
        ({"flip": "yes"}, "knn.flip: must be of type bool, found 'yes'"),
        (None, "knn: must hold keys and values, found None"),
        (5, "knn: must hold keys and values, found 5"),
        ({"shar": 1}, r"knn: unknown key 'shar' \(did you mean 'share'\?\)"),
        ({"form": "b", "flip": True}, "form b does not flip"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(values, message):
    with pytest.raises(InputError, match=message):
        strict(Example, values, "knn")


def test_values_are_taken_as_their_type():
    assert strict(Example, {"k": "auto", "lr": "1e-3", "epochs": [1, 2]}, "x") == Example(
        lr=0.001, epochs=(1, 2)
    )
    assert strict(Example, {"k": 3}, "x").k == 3


def test_limits_hold_without_a_section_too():
    with pytest.raises(InputError, match="^k must be at least 1, found -1$"):
        Example(k=-1)


def script(*words):
    @click.command()
    @setting_options(Example, "knn")
    def main(**values):
        click.echo(repr(read_settings(Example, values, "knn")))

    return CliRunner().invoke(main, words)


def test_options_come_from_the_fields():
    words = "--knn.k 5 --knn.share 0.2 --knn.lr 1 --knn.momentum 0 --knn.epochs 1 --knn.epochs 2 --knn.form b"
    result = script(*words.split(), "--no-knn.flip", "--knn.plain", "y")
    assert result.output.strip() == repr(Example(5, 0.2, 1.0, 0.0, (1, 2), "b", False, "y"))
    assert script(*words.replace("k 5", "k auto").split(), "--knn.flip", "--knn.plain", "y").exit_code == 1
    help_text = " ".join(script("--help").output.split())
    assert "--knn.k [int|auto] neighbours (at least 1)" in help_text.replace("INT|AUTO", "[int|auto]")


def test_an_option_of_another_type_is_refused_with_its_name():
    result = script("--knn.k", "many")
    assert (
        result.exit_code == 2 and "--knn.k" in result.output and "'many' is none of int|auto" in result.output
    )
