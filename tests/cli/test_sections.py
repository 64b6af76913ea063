"""What a command of dvc.yaml takes from the params by reference: sections as options, names in paths."""

from datetime import UTC, datetime
from pathlib import Path

import click
import pytest
from dvc.utils.serialize import parse_yaml

from sslood.cli.command import StageCommand
from sslood.cli.options import section_option
from sslood.cli.sections import item_options
from sslood.core.errors import InputError
from sslood.core.settings import load_params, parse_value


@click.command(cls=StageCommand)
@item_options("init")
@click.option("--seed", type=int, required=True)
@click.option("--models", multiple=True)
@click.option("--share", type=click.FloatRange(0, 1))
@click.option("--on/--no-on")
@click.option("--knn.k", "k", type=int)
@section_option("sizes", "sizes", lambda where, given: None)
@click.option("--out", type=click.Path(path_type=Path))
def command(**values):
    """Do nothing."""


def parsed(*arguments: str) -> dict:
    with command.make_context("x", list(arguments)) as context:
        return context.params


@pytest.fixture
def params(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "seed: 3\nmodels: [a b, $(touch x)]\nall: {on: false, share: 1, knn: {k: 5}, models: []}\n"
        "bad: {knn: {kk: x}}\nwords: {seed: x}\nmany: {seed: [1]}\nover: {share: 2}\n"
    )
    return path


def test_a_section_stands_for_its_keys_and_a_value_for_itself(params):
    where = ["--from", f"{params}:seed", f"--from={params}:models", "--from", f"{params}:all"]
    found = parsed(*where, "--sizes", "x")
    assert (found["seed"], found["on"], found["share"], found["k"]) == (3, False, 1.0, 5)
    assert found["models"] == ("a b", "$(touch x)")


def test_what_stands_later_holds(params):
    assert parsed("--from", f"{params}:seed", "--sizes", "x", "--seed", "7")["seed"] == 7


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ("bad", "p.yaml:bad.knn.kk: unknown key (did you mean 'knn.k'?)"),
        ("words", "p.yaml:words.seed: must be of type int, found 'x'"),
        ("many", "p.yaml:many.seed: must be of type int, found [1]"),
        ("over", "p.yaml:over.share: 2.0 is not in the range 0<=x<=1"),
        ("none", "p.yaml: no section 'none'"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(params, key, says):
    with pytest.raises(InputError) as caught:
        parsed("--sizes", "x", "--from", f"{params}:{key}")
    assert says in str(caught.value)


def test_names_are_filled_into_paths():
    found = parsed("--init", "simclr", "--seed", "3", "--out", "a/{init}-{seed}.x", "--sizes", "p:b.{init}")
    assert found["out"] == Path("a/simclr-3.x") and found["sizes"] == "p:b.simclr"
    assert not [name for name in found if "init" in name]  # it has served its purpose


@pytest.mark.parametrize("name", ["../up", "a/b", "", " ", "$(x)", "-x", "a\nb", "."])
def test_no_name_leads_out_of_its_folder(name):
    with pytest.raises(InputError, match="init: .* is no plain name; use letters, digits, _ and -"):
        parsed("--init", name, "--seed", "3", "--out", "a/{init}", "--sizes", "x")


WORDS = """yes no on off true True false null ~ Null 010 0o10 0x1F 0b11 1e3 1e-3 1.0e-3 .5 5. +3 -3 1_000 1:30
2024-01-01 2024-1-1 .inf -.inf 08 09 0 00 -0 1E3 1e+3 .5e+3 0.1 12e 0x 1.5.2 _1 1_ 0_8 y n 089 -010
"2024" """


@pytest.mark.parametrize("word", [*WORDS.split(), "", "!!str 3", "!!int '3'"])
def test_the_params_are_read_as_dvc_reads_them(tmp_path, word):
    """YAML 1.1 and 1.2 differ in what is a number; a script and DVC must agree on each value."""
    (tmp_path / "p.yaml").write_text(f"a: {word}\n{word or 'b'}: 1\n" if "!" not in word else f"a: {word}\n")
    ours = load_params(tmp_path / "p.yaml")
    theirs = parse_yaml((tmp_path / "p.yaml").read_text(), "p.yaml")
    assert ours == theirs and list(map(type, ours)) == list(map(type, theirs))
    assert type(ours["a"]) is type(theirs["a"])


TIMES = (  # and texts that begin like one
    "2024-05-01 pictures", "2024-05-01T", "2024-05-01 1:02", "2024-05-01 1:02:03", "2024-05-01T01:02:03.5Z",
    "2024-5-1 1:02:03 -3:30", "2024-5-1", "2024-05-01 ", "2024-05-01t01:02:03+01",
)  # fmt: skip


@pytest.mark.parametrize("text", TIMES)
def test_times_are_read_as_dvc_reads_them(tmp_path, text):
    (tmp_path / "p.yaml").write_text(f"folder: {text}\n")
    ours, theirs = load_params(tmp_path / "p.yaml")["folder"], parse_yaml(f"folder: {text}\n", "p")["folder"]
    assert type(ours) is type(theirs) or isinstance(ours, datetime) and isinstance(theirs, datetime)
    if isinstance(ours, datetime):  # DVC's reader turns a zone into UTC
        both = (time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC) for time in (ours, theirs))
        ours, theirs = both
    assert ours == theirs and parse_value(text, "x") == load_params(tmp_path / "p.yaml")["folder"]


BROKEN = {
    "{{ lr }}": "found unhashable key",
    "{[1, 2]: 3}": "found unhashable key",
    "!!bool x": "does not fit its tag",
    "!!timestamp x": "does not fit its tag",
    "&a [*a]": "a value holds itself",
    "&a {b: {c: *a}}": "a value holds itself",
    "[" * 200 + "]" * 200: "nested more than 100 deep",
    "[" * 5000 + "]" * 5000: "nested more than 100 deep",
}


@pytest.mark.parametrize(("text", "says"), BROKEN.items(), ids=range(len(BROKEN)))
def test_what_is_no_yaml_is_one_sentence(tmp_path, text, says):
    (tmp_path / "p.yaml").write_text(f"lr: {text}\n")
    with pytest.raises(InputError, match=rf"p.yaml: not valid YAML: .*{says}"):
        load_params(tmp_path / "p.yaml")
    with pytest.raises(InputError, match=rf"^--lr: .* is no value \(.*{says}"):
        parse_value(text, "--lr")


def test_an_alias_that_stands_twice_is_no_circle(tmp_path):
    (tmp_path / "p.yaml").write_text("a: &a [1]\nb: {c: *a, d: [*a, *a]}\n")
    assert load_params(tmp_path / "p.yaml") == {"a": [1], "b": {"c": [1], "d": [[1], [1]]}}


MERGES = """
a: {x: &x {p: 1, r: [2]}, y: &y {<<: *x, p: 3}}
b: {<<: *x, q: 4}
c:
  p: 5
  <<: *y
d: {<<: [*y, {s: 6}], r: 7}
"""


def test_merges_are_read_as_dvc_reads_them(tmp_path):
    (tmp_path / "p.yaml").write_text(MERGES)
    ours = load_params(tmp_path / "p.yaml")
    assert ours == parse_yaml(MERGES, "p.yaml")
    assert ours["d"] == {"p": 3, "r": 7, "s": 6}
    (tmp_path / "q.yaml").write_text(MERGES + "e: {<<: *x, s: 1, s: 2}\n")
    with pytest.raises(InputError, match="'s' stands twice, again in line 8"):
        load_params(tmp_path / "q.yaml")
