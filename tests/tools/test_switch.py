"""Profiles: values in, comments and order kept, and back again to the same bytes."""

import subprocess
from functools import reduce

import pytest
from dvc.utils.hydra import apply_overrides
from ruamel.yaml import YAML

from sslood.core.errors import InputError
from tools.closure import ROOT
from tools.switch import apply, keep_own, main
from tools.tidy import tidy

BASE = ROOT / "profiles/quickstart.yaml"


@pytest.fixture
def params(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(BASE.read_text())
    return path


def write(folder, text):
    path = folder / "profile.yaml"
    path.write_text(text)
    return path


def comments(text: str) -> list[str]:
    return [line.split("#", 1)[1].strip() for line in text.splitlines() if "#" in line]


def test_values_change_and_comments_and_order_stay(params, tmp_path):
    before = params.read_text()
    profile = write(tmp_path, "data: {size: 32}\nruns:\n  seeds: [5, 6, 7]\nssd: {clusters: 3}\n")
    assert apply(params, profile, BASE)
    after = params.read_text()
    changed = YAML(typ="safe").load(after)
    assert (changed["data"]["size"], changed["runs"]["seeds"], changed["ssd"]["clusters"]) == (
        32,
        [5, 6, 7],
        3,
    )
    assert comments(after) == comments(before)
    assert list(changed) == list(YAML(typ="safe").load(before))
    assert changed["data"]["channels"] == 1


def test_going_back_gives_the_same_bytes(params):
    before = params.read_text()
    for profile in sorted(BASE.parent.glob("*.yaml")):
        apply(params, profile, BASE)
        assert params.read_text() != before or profile == BASE
    apply(params, BASE, BASE)
    assert params.read_text() == before


def test_a_profile_starts_from_the_quickstart_not_from_the_last_profile(params, tmp_path):
    apply(params, write(tmp_path, "train: {epochs: 99}\n"), BASE)
    apply(params, write(tmp_path, "ssd: {clusters: 3}\n"), BASE)
    values = YAML(typ="safe").load(params.read_text())
    assert values["train"]["epochs"] == YAML(typ="safe").load(BASE.read_text())["train"]["epochs"]
    assert values["ssd"]["clusters"] == 3


def test_sets_and_recipes_are_replaced_whole(params, tmp_path):
    text = (
        "sets:\n  mnist: {role: id, source: mnist}\n"
        "  mine: {role: far, source: folder, folder: /x}\naugment:\n  classifier: {flip: 0.5}\n"
    )
    apply(params, write(tmp_path, text), BASE)
    values = YAML(typ="safe").load(params.read_text())
    assert values["sets"] == {
        "mnist": {"role": "id", "source": "mnist"},
        "mine": {"role": "far", "source": "folder", "folder": "/x"},
    }
    assert values["augment"]["classifier"] == {"flip": 0.5}
    assert "jitter" in values["augment"]["pretrain"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ssd: {select: true}\n", "'ssd.select' is gone: write `auto` for clusters"),
        ("trian: {epochs: 3}\n", "key 'trian' is not in params.yaml (did you mean 'train'?)"),
        ("train: {epohcs: 3}\n", "key 'train.epohcs' is not in params.yaml (did you mean 'train.epochs'?)"),
        ("posthoc: {search: true}\n", "profile.yaml: 'posthoc.search' is gone: write `auto`"),
        ("train: 3\n", "'train' must be a mapping"),
        ("id: {a: 3}\n", "'id' must be a value"),
        ("train: [", "not valid YAML"),
        ("sets: {x: {role: far, source: blops}}\n", "sets.x: unknown source 'blops' (did you mean 'blobs'?)"),
        (
            "sets: {digits: {role: id}, digits_heldout: {role: near}}\n",
            "names its source now; write `digits: {role: id, source: digits}`, "
            "`digits_heldout: {role: near, source: digits, derive: heldout}`",
        ),
        ("- 3\n", "must hold keys and values"),
        ("sets: {mine: folder}\n", "sets.mine: must hold keys and values, e.g. {role: far, source: mine}"),
        ("sets: {mine: 5}\n", "sets.mine: must hold keys and values, e.g. {role: far, source: mine}"),
    ],
)
def test_a_wrong_profile_is_named_and_changes_nothing(params, tmp_path, text, says):
    before = params.read_text()
    with pytest.raises(InputError) as caught:
        apply(params, write(tmp_path, text), BASE)
    assert says in str(caught.value)
    assert params.read_text() == before


@pytest.mark.parametrize("read", [lambda params: apply(params, BASE, BASE), keep_own])
def test_params_that_are_no_utf_8_are_named_and_kept(params, read):
    content = params.read_bytes() + b"# caf\xe9\n"
    params.write_bytes(content)
    with pytest.raises(InputError, match="params.yaml: not valid YAML: .*utf-8"):
        read(params)
    assert params.read_bytes() == content


def test_an_unknown_profile_lists_the_known_ones(params):
    with pytest.raises(InputError, match=r"no such profile; there are: cifar10, cifar10-cpu, .*quickstart"):
        apply(params, ROOT / "profiles/cifra10.yaml", BASE)


def test_empty_lists_stay_on_their_line_and_the_next_comment_stays(params, tmp_path):
    before = params.read_text()
    apply(
        params,
        write(tmp_path, "runs: {objectives: [], leaveout_backbones: []}\nevaluate: {models: [a]}\n"),
        BASE,
    )
    after = params.read_text()
    assert "  objectives: []\n" in after
    assert YAML(typ="safe").load(after)["runs"]["leaveout_backbones"] == []
    assert comments(after) == comments(before)
    apply(params, BASE, BASE)
    assert params.read_text() == before


def test_lost_params_are_written_anew(params):
    params.unlink()
    assert apply(params, BASE, BASE)
    assert params.read_bytes() == BASE.read_bytes()


def test_tidying_without_git_says_what_is_missing(tmp_path):
    with pytest.raises(InputError, match="no git repository, which DVC needs; clone it"):
        tidy(tmp_path)


def test_lists_on_one_line_are_written_below_each_other_like_the_quickstart_s(params, tmp_path):
    before = params.read_text()
    profile = "runs: {leaveout_backbones: [a], seeds: [3, 4], adopted: [x]}\nevaluate: {models: [a, b]}\n"
    apply(params, write(tmp_path, profile), BASE)
    after = params.read_text()
    values = YAML(typ="safe").load(after)
    assert values["runs"]["leaveout_backbones"] == ["a"] and values["runs"]["seeds"] == [3, 4]
    assert values["runs"]["adopted"] == ["x"] and values["evaluate"]["models"] == ["a", "b"]
    assert values["models"] == {} and comments(after) == comments(before)
    assert "  leaveout_backbones:\n  - a\n" in after


def test_profiles_with_photographs_look_for_their_near_duplicates(params):
    """0.99, right for drawings on black, would miss nearly all doubles of CIFAR-10."""
    for profile in sorted(BASE.parent.glob("*.yaml")):
        apply(params, profile, BASE)
        values = YAML(typ="safe").load(params.read_text())
        photographs = values["data"]["channels"] == 3
        assert values["audit"]["correlation"] == (0.8 if photographs else 0.99), profile.name


@pytest.fixture
def repository(params, monkeypatch):
    """The params in a git repository, committed."""
    monkeypatch.delenv("SSLOOD_SCRATCH", raising=False)
    git = ["git", "-C", str(params.parent), "-c", "user.name=x", "-c", "user.email=x@y"]
    for words in (["init", "-q"], ["add", "params.yaml"], ["commit", "-qm", "x"]):
        subprocess.run([*git, *words], check=True)
    return params


def test_params_that_a_commit_or_a_profile_holds_are_not_kept(repository):
    assert keep_own(repository, BASE) is None
    apply(repository, ROOT / "profiles/objectives.yaml", BASE)
    assert keep_own(repository, BASE) is None


def test_own_params_are_kept_before_a_profile_replaces_them(repository):
    own = repository.read_text().replace("size: 12 ", "size: 16 ")
    repository.write_text(own)
    copy = keep_own(repository, BASE)
    assert copy is not None and copy.parent == repository.parent / "scratch" and copy.read_text() == own


def test_make_profile_says_where(repository, monkeypatch, capsys):
    monkeypatch.chdir(repository.parent)
    monkeypatch.setattr("tools.switch.tidy", lambda root: "")
    monkeypatch.setattr("tools.switch.BASE", BASE)
    repository.write_text(repository.read_text().replace("size: 12 ", "size: 16 "))
    with pytest.raises(SystemExit):
        main.main([str(BASE)])
    copy = next((repository.parent / "scratch").iterdir())
    said = f"Your own params.yaml is kept; `cp scratch/{copy.name} params.yaml` brings it back."
    assert said in capsys.readouterr().out
    assert "size: 16 " in copy.read_text() and "size: 12 " in repository.read_text()


@pytest.mark.parametrize("profile", sorted(BASE.parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_dvc_s_own_writing_changes_nothing_but_the_value(params, profile):
    """`dvc exp run -S` loses the comments and empty lines that follow a list: no profile has any there."""
    apply(params, profile, BASE)
    before = params.read_text().splitlines()
    keys = {"ssd.clusters": 4, "data.size": 17, "train.lr": 0.25, "audit.margin": 0.125, "posthoc.knn.k": 3}
    apply_overrides(params, [f"{key}={value}" for key, value in keys.items()])
    after = params.read_text().splitlines()
    assert len(after) == len(before)
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == len(keys)
    for old, new in changed:
        assert old.partition("#")[2] == new.partition("#")[2], "a comment"
        assert old.partition(":")[0] == new.partition(":")[0]


def list_keys(section, above=""):
    """Yield the full keys of the lists of the params."""
    for key, value in section.items():
        if isinstance(value, dict):
            yield from list_keys(value, f"{above}{key}.")
        elif isinstance(value, list):
            yield f"{above}{key}"


def test_dvc_s_own_writing_of_a_list_changes_that_list_alone(params):
    before, text = comments(params.read_text()), params.read_text()
    keys = list(list_keys(YAML(typ="safe").load(text)))
    for value in ([], [5, 6]):
        params.write_text(text)
        apply_overrides(params, [f"{key}={value}" for key in keys])
        assert comments(params.read_text()) == before
        content = YAML(typ="safe").load(params.read_text())
        for key in keys:
            assert reduce(lambda section, part: section[part], key.split("."), content) == value
