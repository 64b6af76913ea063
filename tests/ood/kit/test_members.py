"""Which rows are combined, chosen by scikit-learn's AUROC, and what is refused."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from sslood.core.errors import InputError, LeftOut
from sslood.ood.kit.combining import Combiner
from sslood.ood.kit.committee import COMMITTEE
from sslood.ood.kit.members import (
    GAIN,
    MOST,
    CombinationSettings,
    Scored,
    add_combinations,
    choose_members,
    read_combinations,
)
from sslood.ood.kit.results import Results
from sslood.ood.kit.search import Held
from sslood.views.ensemble import rows_left_out
from tests.kit.registries import DETECTORS, NETWORK, STOCHASTIC

SIZE = 400


def held(*, seed=0, count=6):
    """Scores of detectors that each see another part of what is OOD, the first ones more of it."""
    random, kinds = np.random.default_rng(seed), np.arange(SIZE) % count
    found = {}
    for place in range(count):
        shift = np.where(kinds == place, 4.0 - 0.3 * place, 0.2)
        scale = 10.0**place  # scales have nothing in common
        outside = scale * (random.normal(size=SIZE) + shift)
        found[f"d{place}"] = Held(scale * random.normal(size=SIZE), {"made": outside})
    return found


def test_nan_among_held_out_scores_names_detector_and_set():
    """An `auto` that chose from the others would hide it."""
    found = held()
    found["d2"].outside["made"][7] = np.nan
    combinations, results = {"auto": CombinationSettings()}, Results("posthoc", 0, "id")
    add_combinations(combinations, Scored("m", "by AUROC", held=found), results)
    (row,) = results.left_out
    said = f"d2: 1 of {SIZE} scores of 'made.validation' are NaN, which no metric counts"
    assert row == {"model": "m", "detector": "auto", "set": "", "reason": said}


def auroc(one, names, by):
    """The criterion from scikit-learn."""
    references = {name: one[name].inside for name in names}
    if len(names) == 1:
        inside, outside = one[names[0]].inside, one[names[0]].outside["made"]
    else:
        rule = Combiner(references, by)
        inside = rule.score(references)
        outside = rule.score({name: one[name].outside["made"] for name in names})
    return roc_auc_score([0] * len(inside) + [1] * len(outside), [*inside, *outside])


@pytest.mark.parametrize("by", ["sum", "fisher", "simes", "cauchy"])
def test_members_are_added_greedily_while_they_help(by):
    one = held()
    members, steps = choose_members(one, by)
    expected: list[str] = []
    while len(expected) < MOST:
        best = max((n for n in one if n not in expected), key=lambda n: auroc(one, [*expected, n], by))
        if expected and auroc(one, [*expected, best], by) < auroc(one, expected, by) + GAIN:
            break
        expected.append(best)
    assert list(members) == expected and len(members) == MOST
    assert steps[-1]["members"] == expected
    for step in steps:
        assert step["auroc"] == pytest.approx(auroc(one, step["members"], by), abs=1e-5)


def test_what_does_not_help_does_not_join():
    """A copy, a rising map of the best and noise leave it alone; the step that was refused is recorded."""
    one = {"best": held(count=1)["d0"]}
    random = np.random.default_rng(1)
    one["copy"] = Held(one["best"].inside * 3, {"made": one["best"].outside["made"] * 3})
    one["noise"] = Held(random.normal(size=SIZE), {"made": random.normal(size=SIZE)})
    members, steps = choose_members(one, "sum")
    assert members == ("best",) and len(steps) == 2
    assert steps[1]["members"] == ["best", "copy"] and steps[1]["auroc"] == pytest.approx(steps[0]["auroc"])


def test_a_constant_detector_joins_nothing():
    one = {"flat": Held(np.zeros(SIZE), {"made": np.zeros(SIZE)})} | held(count=2)
    assert "flat" not in choose_members(one, "sum")[0]
    assert choose_members({"flat": one["flat"]}, "sum")[0] == ("flat",)


def test_a_choice_needs_detectors_and_a_tuning_set():
    with pytest.raises(LeftOut, match="no detector to choose from"):
        choose_members({}, "sum")
    with pytest.raises(LeftOut, match="no set has role tuning"):
        choose_members({"a": Held(np.arange(3.0), {})}, "sum")


def read(tmp_path, text):
    (tmp_path / "p.yaml").write_text(f"combinations:\n  {text}\n")
    return read_combinations(f"{tmp_path}/p.yaml:combinations", ["knn", "gmm"], ["knn", "gmm", "msp"])


def test_a_section_is_read(tmp_path):
    found = read(tmp_path, "a: {members: auto, by: simes}\n  b: {members: [knn, gmm], by: sum}")
    assert found == {
        "a": CombinationSettings("auto", "simes"),
        "b": CombinationSettings(("knn", "gmm"), "sum"),
    }


def test_a_name_may_be_a_number(tmp_path):
    assert read(tmp_path, "3: {members: auto}") == {"3": CombinationSettings()}


def test_no_row_of_any_stage_lends_its_name(tmp_path):
    """Tables hold all rows of a model by name; those of ensembles are as `score_rows` and the params say."""
    rows = {*DETECTORS, *STOCHASTIC, *NETWORK, *COMMITTEE, *rows_left_out(3), "predicted", "mean_msp"}
    rows |= {"ssd", "ssdk", "ssd_10", "ssdk_paper", "eloc", "eloc_published", "member_mc_dropout"}
    for name in rows:
        with pytest.raises(InputError, match=f"combinations.{name}: another row has this name"):
            read(tmp_path, f"{name}: {{members: auto}}")
    assert set(read(tmp_path, "ssds: {members: auto}\n  members: {members: auto}")) == {"ssds", "members"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("b: {members: [knn, gnm], by: sum}", "combinations.b.members: unknown detector 'gnm' .*mean 'gmm'"),
        (
            "b: {members: [knn, msp], by: sum}",
            "combinations.b.members: 'msp' is not run; add it to the detec",
        ),
        ("b: {members: [knn, b], by: sum}", "combinations.b.members: 'b' is a combination itself; name the"),
        ("b: {members: [knn, knn], by: sum}", "two or more different detectors, found ..knn', 'knn'"),
        ("b: {members: [knn], by: sum}", "must be auto, or two or more different detectors, found ..knn'"),
        ("b: {members: [], by: sum}", "must be auto, or two or more different detectors, found .."),
        ("b: {members: knn, by: sum}", "combinations.b.*members.*'knn'"),
        ("b: {members: auto, by: mean}", "combinations.b.*by.*'mean'"),
        ("b: {member: auto, by: sum}", "combinations.b: unknown key 'member' .did you mean 'members'"),
        ("b: [knn, gmm]", "combinations.b: must hold `members` and `by`, found .'knn', 'gmm'"),
        (
            "knn: {members: auto, by: sum}",
            "combinations.knn: another row has this name; give the combination",
        ),
        ("a b: {members: auto, by: sum}", "'a b' is no plain name"),
    ],
)
def test_wrong_sections_are_named(tmp_path, text, says):
    with pytest.raises(InputError, match=says):
        read(tmp_path, text)
