"""The comparison of two devices: equal ones pass, and a network that differs on the second does not."""

import pytest
import torch

from benchmarks import agreement
from benchmarks.agreement import CHECKS, Check, compare, difference, refuse
from tests.kit.training import TRAINED

CPU = torch.device("cpu")
OF_A_CLASSIFIER = ("classifier", "energy margins", "leave-out member", "embeddings", "knn", "mahalanobis")


def some(*names: str) -> dict[str, Check]:
    return {name: CHECKS[name] for name in names}


@pytest.fixture
def perturbed(monkeypatch):
    """Every second network that is built has one weight in a hundred wrong, as the second device's would."""
    built = []

    def changed(build, network_of):
        def build_changed(*arguments):
            found = build(*arguments)
            built.append(found)
            if len(built) % 2 == 0:
                with torch.no_grad():
                    for weight in network_of(found).parameters():
                        weight.flatten()[::100] *= 1.1
            return found

        return build_changed

    monkeypatch.setattr(agreement, "classifier", changed(agreement.classifier, lambda model: model))
    monkeypatch.setattr(agreement, "pretraining", changed(agreement.pretraining, lambda task: task.modules))


def test_a_device_agrees_with_itself(capsys):
    assert compare(CPU, CPU, some("simclr", *OF_A_CLASSIFIER)) == {}
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and "DIFFERS" not in "".join(lines)
    refuse({})


def test_another_network_is_found_by_every_check(perturbed):
    wrong = compare(CPU, CPU, some("simclr", "barlow_twins", *OF_A_CLASSIFIER))
    assert list(wrong) == ["simclr", "barlow_twins", *OF_A_CLASSIFIER]
    with pytest.raises(SystemExit, match=r"are not the CPU's: simclr: loss .* > 0.0001.*; .*knn: scores"):
        refuse(wrong)


def test_a_number_that_is_not_finite_differs():
    nan = Check(lambda here: {"loss": torch.tensor([1.0, float("nan")])})
    assert list(compare(CPU, CPU, {"nan": nan})) == ["nan"]
    assert difference(torch.tensor([1.0, -4.2]), torch.tensor([1.0, -4.0])) == pytest.approx(0.05)


def test_every_objective_that_trains_is_compared():
    assert set(TRAINED) <= set(CHECKS)
