import math

import pytest

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


@pytest.mark.parametrize("steps, rest", [(100, [50, 25, 25]), (7, [4, 2, 1]), (4, [2, 1, 1])])
def test_steps_are_a_tenth_from_the_half_and_a_hundredth_from_three_quarters_on(steps, rest):
    expected = [1.0] * rest[0] + [0.1] * rest[1] + [0.01] * rest[2]
    assert curve("steps", steps, base=1.0) == pytest.approx(expected)


def test_linear_falls_in_equal_steps_to_the_one_after_the_last():
    expected = [0.5, 1.0, 1.0, 0.775, 0.55, 0.325]
    assert curve("linear", 6, base=1.0, final=0.1, warmup=2) == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["constant", "cosine", "linear", "steps"])
def test_warmup_is_linear_and_meets_the_base(kind):
    rates = curve(kind, base=2.0, warmup=4)
    assert rates[:4] == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert rates[4] == pytest.approx(2.0)


def test_what_moves_between_two_values():
    assert [linear_between(0.04, 0.07, share) for share in (0, 0.5, 1)] == pytest.approx([0.04, 0.055, 0.07])
    assert [cosine_between(0.04, 0.4, step, 4) for step in (0, 2, 4)] == pytest.approx([0.04, 0.22, 0.4])
    rising = [cosine_between(0.99, 1.0, step, 30) for step in range(31)]
    assert rising == sorted(rising) and rising[-1] == 1


def test_bad_schedules_are_refused():
    with pytest.raises(InputError, match="known: constant, cosine, linear, steps"):
        learning_rate("quadratic", 0, 10, base=1.0)
    with pytest.raises(InputError, match="warm-up of 11 steps is longer than the run of 10"):
        learning_rate("cosine", 0, 10, base=1.0, warmup=11)
