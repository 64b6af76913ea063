import math

import pytest

from stages.core.errors import InputError
from stages.training.engine.schedules import learning_rate


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


@pytest.mark.parametrize("kind", ["constant", "cosine", "steps"])
def test_warmup_is_linear_and_meets_the_base(kind):
    rates = curve(kind, base=2.0, warmup=4, milestones=(9,))
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[4] == pytest.approx(2.0)


def test_bad_schedules_are_refused():
    with pytest.raises(InputError, match="known: constant, cosine, steps"):
        learning_rate("linear", 0, 10, base=1.0)
    with pytest.raises(InputError, match="warm-up of 11 steps is longer than the run of 10"):
        learning_rate("cosine", 0, 10, base=1.0, warmup=11)
