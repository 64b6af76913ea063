"""Softmax at high temperature against 50 digits."""

import mpmath
import pytest
import torch

from sslood.ood.kit.tempered import entropy_below_uniform, largest_above_uniform, log_ratio_to_uniform


def exact(row, temperature):
    """Return (log(K p), max p - 1 / K, H - log K) of one row of logits, with 50 digits."""
    with mpmath.workdps(50):
        z = [mpmath.mpf(float(value)) / mpmath.mpf(temperature) for value in row]
        total = mpmath.fsum(map(mpmath.exp, z))
        p = [mpmath.exp(value) / total for value in z]
        count = len(z)
        entropy = -mpmath.fsum(one * mpmath.log(one) for one in p if one)
        ratio = [mpmath.log(one * count) for one in p]
        return (
            [float(r) for r in ratio],
            float(max(p) - mpmath.mpf(1) / count),
            float(entropy - mpmath.log(count)),
        )


@pytest.mark.parametrize("temperature", [1000.0, 10.0, 1.0, 0.1])
@pytest.mark.parametrize("classes", [2, 7, 100])
def test_all_digits_are_kept(temperature, classes):
    logits = torch.randn(20, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    rows = [exact(row, temperature) for row in logits]
    close = {"rtol": 1e-11, "atol": 0}
    largest, entropy = (f(logits, temperature) for f in (largest_above_uniform, entropy_below_uniform))
    torch.testing.assert_close(largest, torch.tensor([row[1] for row in rows], dtype=torch.float64), **close)
    torch.testing.assert_close(entropy, torch.tensor([row[2] for row in rows], dtype=torch.float64), **close)
    ratio = torch.tensor([row[0] for row in rows], dtype=torch.float64)
    torch.testing.assert_close(log_ratio_to_uniform(logits, temperature), ratio, rtol=1e-10, atol=1e-15)


def test_far_logits_do_not_overflow():
    logits = torch.tensor([[1e4, -1e4, 0.0], [800.0, 0.0, -5.0]])
    assert torch.isfinite(log_ratio_to_uniform(logits, 1.0)).all()
    torch.testing.assert_close(largest_above_uniform(logits, 1.0), torch.full((2,), 2 / 3).double())
    torch.testing.assert_close(
        entropy_below_uniform(logits, 1.0), -torch.log(torch.tensor([3.0, 3.0]).double())
    )
