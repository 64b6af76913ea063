import math

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, OneCycleLR

from sslood.core.errors import InputError
from sslood.nets.training.schedules import cosine_between, learning_rate, linear_between


def curve(kind, steps=10, **options):
    return [learning_rate(kind, step, steps, **options) for step in range(steps)]


def test_constant():
    assert curve("constant", base=0.3) == [0.3] * 10


def test_cosine_against_its_closed_form():
    expected = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * s / 10)) for s in range(10)]
    assert curve("cosine", base=1.0, final=0.1) == pytest.approx(expected, abs=1e-15)
    assert learning_rate("cosine", 10, 10, base=1.0, final=0.1) == pytest.approx(0.1)


def test_steps():
    rates = curve("steps", base=1.0, milestones=(5, 8), gamma=0.1)
    assert rates == pytest.approx([1.0] * 5 + [0.1] * 3 + [0.01] * 2)


@pytest.mark.parametrize("kind", ["constant", "cosine", "steps", "restarts"])
def test_warmup_is_linear_and_meets_the_base(kind):
    rates = curve(kind, base=2.0, warmup=4, milestones=(9,))
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[4] == pytest.approx(2.0)


def torchs(scheduler, steps, **options):
    """Return the rates of a scheduler of torch."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = scheduler(optimiser, **options)
    rates = []
    for _ in range(steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("steps", [10, 47])
def test_one_cycle_is_torchs(steps):
    expected = torchs(OneCycleLR, steps - 1, max_lr=2.0, total_steps=steps, cycle_momentum=False)
    assert curve("one_cycle", steps, base=2.0)[:-1] == pytest.approx(expected, rel=1e-12)
    assert curve("one_cycle", steps, base=2.0)[-1] == pytest.approx(2.0 / 25 / 1e4)


@pytest.mark.parametrize("growth", [1, 2])
def test_restarts_are_torchs(growth):
    expected = torchs(CosineAnnealingWarmRestarts, 40, T_0=5, T_mult=growth, eta_min=0.1)
    rates = curve("restarts", 40, base=2.0, final=0.1, cycle=5, growth=growth)
    assert rates == pytest.approx(expected, rel=1e-12)
    warmed = curve("restarts", 43, base=2.0, final=0.1, cycle=5, growth=growth, warmup=3)
    assert warmed[3:] == pytest.approx(expected, rel=1e-12)
    assert curve("restarts", base=2.0) == pytest.approx(curve("cosine", base=2.0))  # one cycle, the run


def test_one_cycle_takes_no_warmup_besides_its_own():
    with pytest.raises(InputError, match="one_cycle begins with a warm-up of its own; set warmup"):
        curve("one_cycle", 20, base=2.0, warmup=4)


def test_what_moves_between_two_values():
    assert [linear_between(0.04, 0.07, share) for share in (0, 0.5, 1)] == pytest.approx([0.04, 0.055, 0.07])
    assert [cosine_between(0.04, 0.4, step, 4) for step in (0, 2, 4)] == pytest.approx([0.04, 0.22, 0.4])
    rising = [cosine_between(0.99, 1.0, step, 30) for step in range(31)]
    assert rising == sorted(rising) and rising[-1] == 1


def test_bad_schedules_are_refused():
    with pytest.raises(InputError, match="cycle is -1 and growth 1"):
        learning_rate("restarts", 0, 10, base=1.0, cycle=-1)
    with pytest.raises(InputError, match="known: constant, cosine, one_cycle, restarts, steps"):
        learning_rate("linear", 0, 10, base=1.0)
    with pytest.raises(InputError, match="warm-up of 11 steps is longer than the run of 10"):
        learning_rate("cosine", 0, 10, base=1.0, warmup=11)
