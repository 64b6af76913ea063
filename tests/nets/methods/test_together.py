"""Members trained together in one process are those that are trained alone."""

from functools import cache
from itertools import count

import pytest
import torch

from sslood.core.closure import import_closure
from sslood.core.errors import InputError, LeftOut
from sslood.core.settings import checked
from sslood.data.images.augment import AugmentSettings
from sslood.nets.methods.leaveout import LeaveoutSettings, Watched
from sslood.nets.methods.leaveout_runs import Ensemble
from sslood.nets.methods.together import how_together
from sslood.nets.training.engine import Engine
from stages.leaveout import main
from tests.kit.small import call, write_params, write_sets
from tests.nets.methods.test_leaveout import SECTION

CLOSURE = cache(import_closure)  # of a code that does not change meanwhile
FOLDS = (0, 1, 2)  # of eight classes: the third leaves out two, and takes more steps than the others


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLOOD_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("SSLOOD_THREADS", "1")
    monkeypatch.setattr("sslood.nets.training.checkpoint.import_closure", CLOSURE)
    write_sets(tmp_path)
    return tmp_path


def ensemble(folder, arch="resnet-8-4", loss="margin", **changes):
    section = {**SECTION, "folds": list(FOLDS), "epochs": 1, "batch_size": 140, "lr": 0.02, **changes}
    return Ensemble(
        str(folder / "digits.safetensors"), str(folder / "corruptions.safetensors"), arch.split("-")[0], arch,
        loss, checked(LeaveoutSettings, section, "leaveout"), AugmentSettings(pad=1), "stages.leaveout",
    )  # fmt: skip


def trained_alone(members):
    found = []
    for run in map(members.run, FOLDS):
        curves = Engine(run.task).train(None)
        found.append((run.task.modules.state_dict(), curves))
    return found


def trained_together(members, how, monkeypatch):
    monkeypatch.setenv("SSLOOD_TOGETHER", how)
    members.train_together(1, members.run(1))
    found = []
    for run in map(members.run, FOLDS):
        run.task.watch = None  # no epoch is left
        curves = Engine(run.task).train(run.checkpoint)
        found.append((run.task.modules.state_dict(), curves))
    return found


@pytest.mark.parametrize(
    ("arch", "how", "changes"),
    [
        ("resnet-8-8", "stacked", {}),
        ("densenet-10-4", "stacked", {"accumulate": 2, "batch_size": 70, "clip": 0.5, "select": "leftout"}),
        ("wideresnet-10-1-30", "stacked", {}),  # whose dropout makes it turns
        ("resnet-8-4", "turns", {"loss": "full"}),
    ],
)  # fmt: skip
def test_together_equals_alone(folder, monkeypatch, arch, how, changes):
    """To 1e-5 after some float32 steps where sums have another order, and to the last bit in turns."""
    members = ensemble(folder, arch, **changes)
    alone = trained_alone(members)
    together = trained_together(members, how, monkeypatch)
    exact = how == "turns" or arch.endswith("30")
    steps = [Engine(members.run(fold).task).steps for fold in FOLDS]
    assert exact or len(set(steps)) == 2  # one member goes on when the others have finished their epoch
    for (own, own_curves), (others, curves) in zip(alone, together, strict=True):
        assert own.keys() == others.keys()
        for name, value in own.items():
            difference = (value.double() - others[name].double()).abs().max().item()
            assert difference <= (0 if exact else 1e-5), name
        assert [row.keys() for row in curves] == [row.keys() for row in own_curves]
        for name, value in own_curves[0].items():
            assert curves[0][name] == pytest.approx(value, rel=0, abs=0 if exact else 1e-4), name


def test_an_interrupted_training_of_all_goes_on_and_leaves_the_bytes_of_each(folder, monkeypatch):
    """In float64, where rounded weights do not know the order of sums. The other stages train nothing."""
    options = {
        "id_set": folder / "digits.safetensors", "backbone": "resnet", "loss": "margin",
        "sizes": f"{write_params(folder / 'params.yaml')}:backbones.resnet",
        "tuning_set": folder / "corruptions.safetensors",
        "recipe": f"{folder}/params.yaml:augment.classifier",
        **SECTION, "folds": list(FOLDS), "epochs": 2, "batch_size": 140, "precision": "float64",
    }  # fmt: skip

    def member(fold, name):
        files = {"out": folder / name / f"{fold}.safetensors", "out_curves": folder / name / f"{fold}.csv"}
        return call(main, **options, fold=fold, **files)

    assert [member(fold, "alone") for fold in (2, 0)] == [0, 0]
    monkeypatch.setenv("SSLOOD_TOGETHER", "stacked")
    measured, calls = Watched.watch, count()

    def watch(self, epoch):
        if next(calls) == 3:  # of the second epoch
            raise KeyboardInterrupt
        return measured(self, epoch)

    monkeypatch.setattr(Watched, "watch", watch)
    assert member(2, "together") == 130 and len(list((folder / "scratch").glob("*.pt"))) == 1
    assert member(2, "together") == 0
    monkeypatch.setattr(Engine, "_epoch", None)
    assert member(0, "together") == 0
    for fold in (2, 0):
        own, others = (folder / name / f"{fold}.safetensors" for name in ("alone", "together"))
        assert own.read_bytes() == others.read_bytes()
    assert [file.name for file in (folder / "scratch").glob("*.pt")] == ["leaveout-resnet-1.pt"]


def test_a_member_that_the_sets_do_not_allow_is_left_to_its_own_stage(folder, monkeypatch):
    members = ensemble(folder, select="leftout")
    _, validation, _ = members._sets
    kept = torch.isin(validation.labels, torch.tensor(members.run(0).kept))
    validation.images, validation.labels = validation.images[kept], validation.labels[kept]
    with pytest.raises(LeftOut):
        members.run(0)
    monkeypatch.setenv("SSLOOD_TOGETHER", "turns")
    members.train_together(1, members.run(1))
    assert sorted(file.name for file in (folder / "scratch").glob("*.pt")) == [
        "leaveout-resnet-1.pt", "leaveout-resnet-2.pt",
    ]  # fmt: skip


def test_an_unknown_way_is_refused(monkeypatch):
    monkeypatch.setenv("SSLOOD_TOGETHER", "yes")
    with pytest.raises(InputError, match="SSLOOD_TOGETHER is 'yes'; use 0"):
        how_together()
