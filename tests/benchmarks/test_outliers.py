"""The benchmark of training against outliers: what its table keeps of a variant that diverges."""

from types import SimpleNamespace

from benchmarks import outliers
from sslood.core.errors import InputError


def diverging(task):
    def train(checkpoint):
        raise InputError("gap 2: cross_entropy became nan at step 8, in epoch 1; lower the learning rate")

    return SimpleNamespace(train=train)


def test_a_variant_that_diverges_has_a_row_and_a_gap_in_the_figure(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(outliers, "Engine", diverging)
    found = outliers.outcome(None, {}, {}, trained=True)
    assert found == dict.fromkeys(outliers.COLUMNS, "nan") and "became nan" in capsys.readouterr().out
    path = tmp_path / "rows.csv"
    for name, values in {"start": dict.fromkeys(outliers.COLUMNS, "0.5"), "gap 1": found}.items():
        outliers.append(path, {"variant": name, "seed": 0, "seconds": 1, **values})
    assert outliers.read(path)[1]["energy_near_auroc"] == "nan"
    assert outliers.sweep(path).startswith("<svg")
