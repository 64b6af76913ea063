import pytest
import torch
from torch import nn

from sslood.core.errors import InputError
from sslood.core.seeding import stream_seed
from sslood.nets.training.checkpoint import Checkpoint
from sslood.nets.training.loop import run_epochs
from sslood.nets.training.optimisers import build_optimiser


class Run:
    """Linear regression whose noise follows from the epoch; can be told to fail in an epoch."""

    def __init__(self, fails_in=None, error=None):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = nn.Linear(3, 1)
        self.optimiser = build_optimiser("sgd", self.model, lr=0.1, weight_decay=0.0, momentum=0.9)
        self.fails_in, self.error, self.epochs = fails_in, error, []

    def epoch(self, epoch, bar):
        self.epochs.append(epoch)
        generator = torch.Generator().manual_seed(stream_seed(0, "noise", epoch))
        for step in range(3):
            x = torch.randn(8, 3, generator=generator)
            loss = (self.model(x) - x.sum(1, keepdim=True)).square().mean()
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()
            bar.update(8)
            if epoch == self.fails_in and step == 1:
                raise self.error
        return {"loss": loss.detach()}

    def go(self, checkpoint, **options):
        state = {"model": self.model, "optimiser": self.optimiser}
        options = {"epochs": 6, "items": 24, **options}
        return run_epochs("toy", epoch_step=self.epoch, state=state, checkpoint=checkpoint, **options)


def whole():
    run = Run()
    return run, run.go(None)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters(), strict=True))


def test_a_run_without_a_checkpoint_collects_its_curves():
    run, curves = whole()
    assert run.epochs == list(range(6))
    assert len(curves) == 6 and all(isinstance(row["loss"], float) for row in curves)


@pytest.mark.parametrize("save_every, resumed_from", [(1, 4), (3, 3)])
def test_a_crash_loses_what_was_not_saved_and_changes_nothing(tmp_path, save_every, resumed_from, capsys):
    reference, curves = whole()
    crashed = Run(4, RuntimeError("power cut"))
    with pytest.raises(RuntimeError, match="power cut"):
        crashed.go(Checkpoint(tmp_path, "toy", "f"), save_every=save_every)
    resumed = Run()
    assert resumed.go(Checkpoint(tmp_path, "toy", "f"), save_every=save_every) == curves
    assert resumed.epochs == list(range(resumed_from, 6))
    assert same(resumed, reference)
    said = f"toy: going on after epoch {resumed_from} of 6, {tmp_path / 'toy.pt'}\n"
    assert capsys.readouterr().err == said


def test_an_interrupt_saves_the_last_finished_epoch(tmp_path):
    reference, curves = whole()
    with pytest.raises(KeyboardInterrupt):
        Run(4, KeyboardInterrupt()).go(Checkpoint(tmp_path, "toy", "f"), save_every=100)
    resumed = Run()
    assert resumed.go(Checkpoint(tmp_path, "toy", "f"), save_every=100) == curves
    assert resumed.epochs == [4, 5]
    assert same(resumed, reference)


def test_a_finished_run_is_only_read_again(tmp_path):
    reference, curves = whole()
    Run().go(Checkpoint(tmp_path, "toy", "f"), save_every=100)
    again = Run()
    assert again.go(Checkpoint(tmp_path, "toy", "f"), save_every=100) == curves
    assert again.epochs == [] and same(again, reference)


def test_a_minute_without_saving_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr("sslood.nets.training.loop.SAVE_SECONDS", 0.0)
    with pytest.raises(RuntimeError):
        Run(4, RuntimeError()).go(Checkpoint(tmp_path, "toy", "f"), save_every=100)
    resumed = Run()
    resumed.go(Checkpoint(tmp_path, "toy", "f"), save_every=100)
    assert resumed.epochs == [4, 5]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_no_number_stops_with_epoch_and_term(tmp_path, value):
    def epoch(number, bar):
        return {"loss": 1.0, "variance": value if number == 2 else 0.0}

    model = nn.Linear(1, 1)
    checkpoint = Checkpoint(tmp_path, "toy", "f")
    with pytest.raises(InputError, match=f"toy: variance became {value} in epoch 3"):
        run_epochs("toy", epochs=5, epoch_step=epoch, state={"model": model}, checkpoint=checkpoint)
    assert len(checkpoint.load()["curves"]) == 2  # the broken epoch is not what a rerun starts from


def test_out_of_memory_proposes_a_smaller_batch():
    with pytest.raises(InputError, match="toy: out of memory; use a smaller batch_size"):
        Run(1, torch.OutOfMemoryError("CUDA out of memory")).go(None)


def test_a_batch_of_one_image_that_batch_norm_cannot_take_is_no_traceback():
    """The error is torch's own: maps of one pixel, as `fast` has them for 16 pixels."""
    with pytest.raises(ValueError, match="Expected more than 1 value") as error:
        nn.BatchNorm2d(4)(torch.zeros(1, 4, 1, 1))
    with pytest.raises(InputError, match="toy: a batch holds one image .* use batches of at least 2 images"):
        Run(1, error.value).go(None)
    with pytest.raises(ValueError, match="another") as error:
        Run(1, ValueError("another")).go(None)
    assert not isinstance(error.value, InputError)


def test_where_there_is_no_terminal_a_long_run_says_once_how_long_it_will_take(capsys, monkeypatch):
    clock = iter([0.0] + [0.0, 40.0] * 50)
    monkeypatch.setattr("sslood.nets.training.loop.time.monotonic", lambda: next(clock))
    Run().go(None, epochs=300)
    said = capsys.readouterr().err  # 20 batches of 8 in 40 s: 4 images a second, of 7,200 - 200 to come
    assert said == "toy: 4 img/s, about 29 min to go\n"
    clock = iter([0.0] + [0.0, 40.0] * 50)
    Run().go(None, epochs=10)
    assert capsys.readouterr().err == ""
    clock = iter([0.0] + [0.0, 40.0] * 50)
    Run().go(None, epochs=300, silent=True)
    assert capsys.readouterr().err == ""
