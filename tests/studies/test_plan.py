"""The files of studies/: what they may say, and that those which are there can be run."""

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats

from sslood.core.errors import InputError
from studies.plan import chosen, read_study, study_names, tiny
from studies.table import over_seeds
from studies.workspace import check_parts, put

GOOD = {"title": "T", "parts": [{"name": "a"}, {"name": "b", "minutes": 2}]}


def study(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes))
    return read_study(str(path))


def test_a_study_is_read(tmp_path):
    found = study(tmp_path, profile="cifar10", settings={"train.epochs": 1})
    assert (found.name, found.minutes) == ("mine", 2)
    assert [(part.name, part.profile, part.goals) for part in found.parts] == [
        ("a", "cifar10", ("summarize",)), ("b", "cifar10", ("summarize",)),
    ]  # fmt: skip
    assert [part.name for part in chosen(found, ("b",)).parts] == ["b"]
    with pytest.raises(InputError, match="c: no such part of mine; there are: a, b"):
        chosen(found, ("c",))


def test_core_stands_for_the_parts_that_a_study_lists(tmp_path):
    found = study(tmp_path, core=["b"])
    assert [part.name for part in chosen(found, ("core",)).parts] == ["b"]
    assert [part.name for part in chosen(found, ("core", "a")).parts] == ["a", "b"]
    with pytest.raises(InputError, match="core: no such part of mine; there are: a, b"):
        chosen(study(tmp_path), ("core",))


def test_a_tiny_study_has_the_same_parts_on_any_device(tmp_path):
    parts = [
        {"name": "a", "device": "cuda", "minutes": 5, "settings": {"train.epochs": 60, "data.size": 12}},
        {"name": "b", "device": "cuda", "command": "long", "tiny_command": "short"},
        {"name": "c", "device": "cuda", "command": "only there"},
    ]
    found = tiny(study(tmp_path, parts=parts, least=500, tiny={"train.epochs": 1}))
    assert [(part.name, part.device, part.command, part.least) for part in found.parts] == [
        ("a", "any", "", 30), ("b", "any", "short", 30), ("c", "cuda", "only there", 30),
    ]  # fmt: skip
    assert found.parts[0].settings == {"train.epochs": 1, "data.size": 12} and found.minutes == 0
    assert found.is_tiny and not study(tmp_path).is_tiny
    with pytest.raises(InputError, match="mine.yaml: has no key 'tiny'; list there the settings that"):
        tiny(study(tmp_path))


@pytest.mark.parametrize("name", [name for name in study_names() if read_study(name).tiny])
def test_the_params_of_every_tiny_part_are_right(name, tmp_path):
    check_parts(tiny(read_study(name)), tmp_path)


def test_the_profile_and_the_least_budget_of_a_part_are_its_own_or_the_studys(tmp_path):
    parts = [{"name": "a"}, {"name": "b", "profile": "own", "least": 300}, {"name": "c", "command": "x"}]
    found = study(tmp_path, least=50, profile="cifar10", parts=parts)
    assert [(part.profile, part.least) for part in found.parts] == [
        ("cifar10", 50), ("own", 300), ("", 50),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"parts": []}, "mine.yaml: parts must list at least one part"),
        ({"parts": [{"name": "a"}, {"name": "a"}]}, "two parts are called 'a'; give one another name"),
        (
            {"parts": [{"name": "a", "goal": ["x"]}]},
            "parts.a: unknown key 'goal' .did you mean 'goals'",
        ),
        ({"parts": [{"title": "x"}]}, "parts.0: missing key 'name'"),
        ({"parts": [{"name": "a/b"}]}, "'a/b' is no plain name"),
        (
            {"parts": [{"name": "a", "command": "x", "profile": "own"}]},
            "has a command, so it takes no 'profile'",
        ),
        ({"parts": [{"name": "a", "goals": []}]}, "goals must list at least one stage"),
        ({"core": ["a", "bb"]}, "mine.yaml: core names 'bb', which is no part .did you mean 'b'"),
        ({"parts": [{"name": "core"}]}, "a part is called 'core', which stands for the list of that key"),
        (
            {"parts": [{"name": "a", "tiny_command": "x"}]},
            "part 'a' has a tiny_command, but no command that it could stand in for",
        ),
        (
            {"parts": [{"name": "a", "prepare": {"scratch/x": "draw"}}]},
            r"prepare.scratch/x must be a command in which the word {path} stands .*, found .draw.",
        ),
        (
            {"parts": [{"name": "a", "prepare": {"../x": "draw {path}"}}]},
            r"prepare.../x must lie in the part's folder",
        ),
        ({"least": 0}, "least must be at least 1, found 0"),
        ({"parts": [{"name": "a", "least": -1}]}, "parts.a.least must be at least 0, found -1"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, changes, said):
    with pytest.raises(InputError, match=said):
        study(tmp_path, **changes)


def test_an_unknown_study_or_profile_is_named(tmp_path):
    with pytest.raises(InputError, match="nosuch: no such study; there are: .*cifar10-cpu"):
        read_study("nosuch")
    with pytest.raises(InputError, match="profiles/nosuch.yaml: no such profile; there are: cifar10"):
        check_parts(study(tmp_path, profile="nosuch"), tmp_path / "check")


def test_the_params_of_a_part_are_checked_before_anything_runs(tmp_path):
    """The keys first, then what they hold."""
    for settings, said in (
        ({"train.epoch": 1}, r"mine.yaml: parts.a.settings: there is no key 'train.epoch'"),
        ({"train.epochs": 0}, r"mine.yaml: parts.a: params.yaml:train.epochs must be at least 1"),
    ):
        with pytest.raises(InputError, match=said):
            check_parts(study(tmp_path, parts=[{"name": "a", "settings": settings}]), tmp_path / "check")


@pytest.mark.parametrize(
    ("goal", "said"),
    [
        ("sumarize", "goals: no such stage 'sumarize' .did you mean 'summarize'"),
        ("pretrain@simclr-9", "goals: no such stage 'pretrain@simclr-9' .did you mean 'pretrain@simclr-"),
    ],
)
def test_the_goals_of_all_parts_are_checked_before_anything_runs(tmp_path, goal, said):
    parts = [{"name": "a", "goals": ["pretrain@simclr-0", "train"]}, {"name": "b", "goals": [goal]}]
    with pytest.raises(InputError, match=f"mine.yaml: parts.b: {said}"):
        check_parts(study(tmp_path, parts=parts), tmp_path / "check")
    check_parts(study(tmp_path, parts=parts[:1]), tmp_path / "check")


def test_settings_are_put_at_dotted_keys():
    params = {
        "sets": {"a": {"role": "far"}, "b": {}},
        "train": {"epochs": 1},
        "methods": {},
        "objectives": {"s": {}},
    }
    put(params, "train.epochs", 2, "w")
    put(params, "sets.b", None, "w")
    put(params, "methods.plain", {}, "w")
    put(params, "objectives.s.epochs", 3, "w")
    put(params, "sets", {"c": {"role": "near"}}, "w")
    assert params == {
        "sets": {"c": {"role": "near"}}, "train": {"epochs": 2}, "methods": {"plain": {}},
        "objectives": {"s": {"epochs": 3}},
    }  # fmt: skip
    with pytest.raises(InputError, match=r"w: there is no key 'train.epoch' \(did you mean 'epochs'\?\)"):
        put(params, "train.epoch", 2, "w")
    with pytest.raises(InputError, match="w: there is no key 'sets.x'"):
        put(params, "sets.x", None, "w")
    with pytest.raises(InputError, match="w: 'train.epochs' holds no keys, so there is no 'train.epochs.x'"):
        put(params, "train.epochs.x", 2, "w")


@pytest.mark.parametrize("name", study_names())
def test_the_params_of_every_part_are_right(name, tmp_path):
    """As when a study starts; a part with a wrong one would keep all others from running too."""
    check_parts(read_study(name), tmp_path)


def test_means_and_intervals_over_seeds_are_scipys():
    values = np.array([[0.8, 0.9], [0.7, 0.94], [0.75, 0.95]])  # seed x set
    rows = [
        {"stage": "posthoc", "model": "m", "detector": "d", "seed": seed, "set": f"s{place}", "role": "near",
         "auroc": value, "fpr95_id": 1 - value, "auroc_low": value - 0.02 * (1 + place),
         "auroc_high": value + 0.01, "n_id": 100, "n_ood": 50}
        for seed, line in enumerate(values) for place, value in enumerate(line)
    ]  # fmt: skip
    [found] = over_seeds("p", pd.DataFrame(rows)).to_dict("records")
    means = values.mean(axis=1)
    low, high = stats.t.interval(0.95, 2, means.mean(), stats.sem(means))
    assert found["auroc"] == pytest.approx(means.mean(), abs=1e-6)
    assert found["auroc_std"] == pytest.approx(means.std(ddof=1), abs=1e-6)
    assert (found["seed_low"], found["seed_high"]) == pytest.approx((low, high), abs=1e-6)
    assert (found["low"], found["high"]) == pytest.approx(
        (means.mean() - 0.03, means.mean() + 0.01), abs=1e-6
    )
    assert (found["seeds"], found["sets"], found["n_id"], found["n_ood"]) == (3, 2, 100, 100)


def test_a_row_that_lacks_a_set_has_no_mean():
    """SSD_k is left out of sets that have too few images; its mean would be over other sets."""
    row = {"stage": "posthoc", "model": "m", "seed": 0, "role": "far", "n_id": 9, "n_ood": 9, "fpr95_id": 0.5}
    rows = [
        {**row, "detector": detector, "set": name, "auroc": auroc}
        for detector, name, auroc in (("knn", "x", 0.9), ("knn", "y", 0.7), ("ssdk", "x", 0.95))
    ]
    found = over_seeds("p", pd.DataFrame(rows))
    assert found[["detector", "sets", "auroc"]].values.tolist() == [["knn", 2, 0.8]]
