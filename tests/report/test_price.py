"""The price of `auto`, from made-up results with known answers."""

import pandas as pd
import pytest

from sslood.core.files import save_json
from sslood.report.cells import markdown
from sslood.report.frame import ResultsFile, by_group
from sslood.report.price import Choice, best_model, choices, prices, with_price

AUROCS = {  # detector -> (near, far, far), seed 0; seed 1 has 0.01 less
    "gmm": (0.80, 0.99, 0.97),
    "energy": (0.90, 0.70, 0.72),
    "auto": (0.88, 0.98, 0.98),
}


PLACES = (("held", "near"), ("noise", "far"), ("blobs", "far"))


def made(model="net", aurocs=AUROCS, **more):
    rows = []
    for stage, rivals in (("posthoc", aurocs), ("ssd", more)):
        for name, values in rivals.items():
            for seed in (0, 1):
                keys = {"stage": stage, "model": model, "detector": name, "seed": seed}
                for (ood, role), value in zip(PLACES, values, strict=True):
                    rows.append({**keys, "set": ood, "role": role, "auroc": value - 0.01 * seed})
    return pd.DataFrame(rows)


GMM = Choice("gmm", 0.9)


def test_the_price_of_a_set_is_what_the_best_there_has_more():
    rows = with_price(made(ssd=(1.0, 1.0, 1.0)))  # of another stage: no candidate of `auto`
    own = rows[rows["detector"] == "auto"].set_index(["seed", "set"])["price"]
    assert own.to_dict() == pytest.approx(
        {(s, ood): value for s in (0, 1) for ood, value in (("held", 0.02), ("noise", 0.01), ("blobs", 0.0))}
    )
    assert rows.loc[rows["detector"] != "auto", "price"].isna().all()


def test_results_without_auto_have_no_price():
    rows = made()
    rows = rows[rows["detector"] != "auto"]
    assert with_price(rows) is rows
    assert prices(rows, by_group(rows, ["auroc"]), {}) is None


def test_the_table_shows_the_choice_and_its_price_near_and_far():
    """Near: 90 - 88 by energy. Far, mean of two sets: gmm and auto have 98 both, so the price is nothing."""
    rows = made(ssd=(1.0, 1.0, 1.0))
    chosen = {"net": [Choice("energy", 0.93), GMM]}
    table = prices(rows, by_group(rows, ["auroc"]), chosen)
    assert markdown(table).splitlines() == [
        "| model | auto | tuning | near | near: best | near: price | far | far: best | far: price |",
        "| :--- | :--- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| `net` | energy (1 of 2), gmm (1 of 2) | 91.5 | 87.5 | 89.5 energy | 2.0 | 97.5 | 97.5 gmm | 0.0 |",
    ]
    alike = prices(rows, by_group(rows, ["auroc"]), {"net": [GMM, GMM]})
    assert alike.rows[0][1] == "gmm"


def test_the_model_is_chosen_on_the_tuning_sets_alone():
    """`other` is 10 points worse near and one better far, and its tuning AUROC is the higher one."""
    other = {name: (near - 0.1, *(value + 0.01 for value in far)) for name, (near, *far) in AUROCS.items()}
    rows = pd.concat([made(), made("other", other)], ignore_index=True)
    chosen = {"net": [GMM, GMM], "other": [Choice("energy", 0.95), Choice("energy", 0.93)]}
    groups = by_group(rows, ["auroc"])
    assert best_model(rows, groups, chosen) == (
        "Of the models, `other` has the highest tuning AUROC: near 77.5 (price 12.0: 89.5 by `energy` of "
        "`net`), far 98.5 (price 0.0: 98.5 by `gmm` of `other`)."
    )
    assert [line[2] for line in prices(rows, groups, chosen).rows] == ["90.0", "94.0"]
    assert best_model(rows, groups, {"net": [GMM, GMM]}) is None


def test_a_model_without_far_sets_has_gaps():
    rows = made()
    rows = rows[rows["role"] == "near"]
    table = prices(rows, by_group(rows, ["auroc"]), {"net": [GMM]})
    assert table.rows[0][6:] == ["–"] * 3
    several = {"net": [GMM], "gone": [Choice("gmm", 0.8)]}
    said = best_model(rows, by_group(rows, ["auroc"]), several)
    assert said == (
        "Of the models, `net` has the highest tuning AUROC: near 87.5 (price 2.0: 89.5 by `energy` of `net`)."
    )


def test_choices_are_those_of_rows_that_exist(tmp_path):
    entry = {
        "value": ["gmm", "knn"],
        "source": "x",
        "candidates": [{"members": ["gmm"], "auroc": 0.8}, {"members": ["gmm", "knn"], "auroc": 0.82}],
    }
    members = {f"{name}.auto.members": entry for name in ("net", "gone")}
    save_json(tmp_path / "0.json", {"models": {"net": {"auto": {}}, "gone": {}}, "chosen": members})
    files = [ResultsFile("posthoc", 0, tmp_path / "0.json"), ResultsFile("ssd", 0, tmp_path / "none.json")]
    assert choices(files) == {"net": [Choice("gmm + knn", 0.82)]}


def test_members_that_the_params_name_were_chosen_by_nothing(tmp_path):
    entry = {"value": ["gmm"], "source": "params"}
    save_json(tmp_path / "0.json", {"models": {"net": {"auto": {}}}, "chosen": {"net.auto.members": entry}})
    chosen = choices([ResultsFile("posthoc", 0, tmp_path / "0.json")])
    rows = pd.concat([made(), made("other")], ignore_index=True)
    groups = by_group(rows, ["auroc"])
    assert prices(rows, groups, chosen).rows[0][:4] == ["net", "gmm", "–", "87.5"]
    assert best_model(rows, groups, {**chosen, "other": [GMM, GMM]}) is None
