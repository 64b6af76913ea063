"""The stage that runs a sweep: its numbers are those of the stages, and it runs what a change concerns."""

from functools import cache

import pandas as pd
import pytest
import yaml

from sslood.core.files import load_json
from sslood.nets.selfsup.pretraining import Pretraining
from sslood.nets.training import checkpoint
from sslood.report import sweeps
from sslood.sweeps import run as runs
from sslood.sweeps.cells import read_cells
from sslood.sweeps.grids import read_sweep
from stages import embed, stochastic, sweep, variants
from tests.kit.small import call, write_sets
from tests.kit.training import PRETRAIN

PARAMS = {
    "objectives": {
        "bayes_h_vicreg": {
            "projector": [8], "invariance": 25.0, "variance": 25.0, "covariance": 1.0, "scale": 0.1,
            "samples": 1, "beta": 0.0001, "components": 0, "kl": "closed", "sigma": "diagonal",
        },
        "b01": {"of": "bayes_h_vicreg", "beta": 0.01},
        "simclr": {"projector": [8], "temperature": 0.2},
    },
    "backbones": {"resnet": {"depth": 8, "width": 2}},
    "augment": {"pretrain": {"jitter": 0.8, "brightness": 0.4}, "shots": {"pad": 1}},
    "sets": {"digits": {"role": "id"}, "heldout": {"role": "near"}, "noise": {"role": "far"}},
    "embed": {"batch_size": 256, "precision": "float32", "shots": 2, "copies": 1},
    "probe": {"knn": {"k": [5], "temperature": 0.07}, "linear": {"l2": [0.01], "shares": []}},
    "posthoc": {"knn": {"k": 5}},
    "stochastic": {"euclidean_knn": {"k": 5}},
}  # fmt: skip
GRIDS = [{"objective": ["bayes_h_vicreg"], "beta": [0.01, 0.0001]}, {"objective": "simclr"}]
SHARED = {**PRETRAIN, "epochs": 1, "batch_size": 200}

CLOSURE = cache(checkpoint.import_closure)  # no code changes while tests run


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return a function that runs these grids: exit status, tables, number of trainings, what it said."""
    write_sets(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    monkeypatch.setenv("SSLOOD_THREADS", "1")
    monkeypatch.setattr(checkpoint, "import_closure", CLOSURE)
    monkeypatch.setattr(sweeps, "levels", lambda *_: "<svg/>")  # they are drawn in tests/report
    trained, train = [], Pretraining.run
    monkeypatch.setattr(Pretraining, "run", lambda self, c: trained.append(self.label) or train(self, c))

    def sweep_over(grids, detectors=("sigma_mean", "euclidean_knn", "knn")):
        del trained[:]
        params = {**PARAMS, "sweeps": {"s": {"detectors": list(detectors), "grids": grids}}}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        places = {key: f"params.yaml:{at.format(backbone='resnet')}" for key, at in sweep.SECTIONS.items()}
        status = call(
            sweep.main, sweep="s", grids="params.yaml:sweeps.s", id="digits", sets="params.yaml:sets",
            folder=".", seeds=[0], backbone="resnet", **places, **SHARED, out="out",
        )  # fmt: skip
        tables = [pd.read_csv(f"out/{name}.csv") for name in ("scores", "encoders")] if status == 0 else []
        return status, tables, len(trained), capsys.readouterr()

    return sweep_over


def stages_on(variant: str) -> dict[str, dict]:
    """Return {detector: {set: metrics}} of a variant by the stages that the pipeline runs one by one."""
    at, sets = "params.yaml", {"sets": "params.yaml:sets", "sets_dir": "."}
    assert 0 == call(
        variants.main, variant=variant, seed=0, id_set="digits.safetensors", backbone="resnet",
        sizes=f"{at}:backbones.resnet", objectives=f"{at}:objectives", recipe=f"{at}:augment.pretrain",
        **SHARED, out="model.safetensors", out_curves="model.csv",
    )  # fmt: skip
    own = {**PARAMS["embed"], "recipe": f"{at}:augment.shots", "id": "digits", "seed": 0}
    assert call(embed.main, model="model.safetensors", **sets, **own, out=f"all/{variant}.safetensors") == 0
    rest = {f"{name}_knn__k": 5 for name in ("kl", "reverse_kl", "bhattacharyya", "euclidean")}
    given = {"detectors": ["sigma_mean", "euclidean_knn"], "kl_prior__samples": 4, **rest}
    out = {"out_results": "r.json", "out_scores": "s.safetensors"}
    assert call(stochastic.main, embeddings="all", models=[variant], seed=0, **given, **out) == 0
    return load_json("r.json")["models"][variant]


def test_a_sweep_from_its_first_cell_to_its_last_change(run, monkeypatch, tmp_path):
    """In one test, since each step goes on with the encoders of the step before."""
    # a cell that breaks is named, and the others finish
    own = runs.evaluated

    def breaks(kept, *rest):
        return 1 / 0 if "repulsion" in kept.curves.read_text() else own(kept, *rest)  # a column of SimCLR

    monkeypatch.setattr(runs, "evaluated", breaks)
    status, _, trained, said = run(GRIDS)
    assert status == 1 and trained == 3
    assert "s: cells failed: simclr, seed 0; the others are kept, run again" in said.err
    assert len(pd.read_csv("out/encoders.csv")) == 2
    monkeypatch.setattr(runs, "evaluated", own)

    # run again, nothing is trained, and a cell is what the stages make of its settings
    status, (scores, encoders), trained, _ = run(GRIDS)
    assert status == 0 and trained == 0 and len(encoders) == 3
    detectors = scores.groupby("objective")["detector"].unique().map(set)
    assert detectors["simclr"] == {"knn"}  # it has no Gaussians
    assert detectors["bayes_h_vicreg"] == {"sigma_mean", "euclidean_knn", "knn"}
    cell = scores[scores["beta"] == 0.01].set_index(["detector", "set"])["auroc"]
    for detector, found in stages_on("b01").items():
        for name, metrics in found.items():
            assert cell[detector, name] == pytest.approx(metrics["auroc"], abs=1e-6)

    # changed levels run their own cells, and one that diverges is left out with its reason
    more = [{**GRIDS[0], "beta": [0.01, 0.5]}, {"objective": "simclr", "lr": [1.0e30, 0.05]}]
    status, (scores, encoders), trained, _ = run(more)
    assert status == 0 and trained == 2  # beta 0.5, and the one that diverges; lr 0.05 is what the params say
    assert len(encoders) == 3 and set(scores["lr"].dropna()) == {0.05}
    text = (tmp_path / "out/table.md").read_text()
    assert "- simclr, lr 1e+30, seed 0: pretrain sweep-" in text and "lower the learning rate" in text

    # other detectors train nothing
    status, (scores, _), trained, _ = run(GRIDS, detectors=["mahalanobis"])
    assert status == 0 and trained == 0 and set(scores["detector"]) == {"mahalanobis"}


def test_no_result_at_all_is_an_error(run):
    status, _, _, said = run([{"objective": "simclr", "lr": 1.0e30}])
    assert status == 1 and "s: no cell has results; the first, simclr, lr 1e+30, seed 0: pretrain" in said.err


@pytest.mark.parametrize(
    ("grids", "says"),
    [
        (
            [{"objective": "simcrl"}],
            "params.yaml:objectives: there is no objective 'simcrl' (did you mean 'simclr'",
        ),
        (
            [{"objective": "simclr", "betta": 1}],
            "params.yaml:sweeps.s (simclr, betta 1, seed 0): unknown key",
        ),
        ([{"objective": "simclr", "temperature": -1}], "temperature must be above 0, found -1"),
        (
            [{"objective": "simclr", "backbone.depth": 9}],
            "sweeps.s (simclr, backbone.depth 9, seed 0): depth",
        ),
        (
            [{"objective": "simclr", "augment.fliip": 1}],
            "seed 0).augment: unknown key 'fliip' (did you mean 'fl",
        ),
        (
            [{"objective": "simclr", "augment": "strong", "augment.flip": [0.5]}],
            "augment.flip 0.5, seed 0).augment: must hold keys and values, found 'strong'",
        ),
        ([{"objective": "simclr", "augment.pixmix": 3}], "seed 0).augment.pixmix is 3, but only a method"),
    ],
)
def test_wrong_levels_are_named_before_anything_runs(run, grids, says):
    status, _, trained, said = run(grids)
    assert status == 1 and trained == 0 and says in said.err, said.err


@pytest.mark.parametrize("turned", [False, True])
def test_single_keys_of_views_stand_beside_a_mapping_of_them_and_leave_it_alone(run, turned, tmp_path):
    run([{"objective": "simclr", "lr": 1.0e30}])  # writes the params
    views = {"crop_scale_min": 0.2, "flip": 0.25}
    grid = {"augment": views, "augment.crop_scale_min": [0.1, 0.5]}
    grid = {"objective": "simclr", **(dict(reversed(grid.items())) if turned else grid)}
    found = read_sweep({"detectors": ["knn"], "grids": [grid]}, [0], "p:s")
    at = {key: f"params.yaml:{at.format(backbone='resnet')}" for key, at in sweep.SECTIONS.items()}
    cells = read_cells(found, SHARED, "resnet", sweep.Places(**at), "p:s")
    assert [cell.plan.recipes[0].crop_scale_min for cell in cells] == [0.1, 0.5]
    assert {cell.plan.recipes[0].flip for cell in cells} == {0.25}
    assert len({cell.name for cell in cells}) == 2 and views == {"crop_scale_min": 0.2, "flip": 0.25}


def test_an_unknown_detector_is_named(run):
    status, _, _, said = run(GRIDS, detectors=["knm"])
    assert (
        status == 1 and "params.yaml:sweeps.s.detectors: unknown name 'knm' (did you mean 'knn'?)" in said.err
    )
