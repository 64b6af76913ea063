"""Multinomial logistic regression by Newton's method, precise enough to be equal on all CPUs.

L-BFGS stops where the loss no longer falls, at a gradient of 1e-6 or so: where exactly depends on the last
bits of sums, and a calibration error of it differs by 1e-5 between machines. Newton's steps square the error,
so the gradient ends below 1e-12, and what is computed from the weights agrees to 9 digits or more.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from sslood.core.errors import InputError
from sslood.core.threads import blas_threads

TOLERANCE = 1e-12  # largest entry of the gradient; rounding leaves about 1e-15
STEPS = 100  # of Newton; 6 to 15 are usual
SOLVER_STEPS = 2000  # of conjugate gradients per step, whose error falls to SOLVED of its start
SOLVED = 1e-3
HALVINGS = 30


def fit_linear(
    features: np.ndarray, labels: np.ndarray, *, classes: int, l2: float, start: np.ndarray | None = None
) -> np.ndarray:
    """Return the weights [D + 1, classes] (last row: bias) of multinomial logistic regression, float64.

    Minimises mean cross-entropy + l2 / 2 * |W|^2, the bias free, from `start` (a warm start) or zero, until
    no entry of the gradient is above TOLERANCE or rounding stops it. `features` [N, D] should be
    standardised. InputError for a negative l2.
    """
    if not l2 >= 0:
        raise InputError(f"linear.l2 must be at least 0, found {l2}")
    problem = _Problem(features, labels, classes, l2)
    weights = np.zeros((classes, features.shape[1] + 1)) if start is None else start.T
    with blas_threads(features.size):
        return np.ascontiguousarray(_newton(problem, weights).T)


class _Problem:
    """The gradient and the curvature of the loss; weights [classes, D + 1]."""

    def __init__(self, features: np.ndarray, labels: np.ndarray, classes: int, l2: float):
        self.count, width = features.shape
        # a row per class: numpy sums over the classes ten times as fast so
        self.x = np.vstack((features.T.astype(np.float64), np.ones((1, self.count))))
        self.target = np.ascontiguousarray(np.eye(classes)[labels].T)
        self.penalty = np.full(width + 1, l2)
        self.penalty[-1] = 0.0  # the bias is free

    def slope(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (probabilities [classes, N], gradient [classes, D + 1])."""
        p = weights @ self.x
        p -= p.max(0)
        np.exp(p, out=p)
        p /= p.sum(0)
        return p, (p - self.target) @ self.x.T / self.count + self.penalty * weights

    def curvature(self, v: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Return the product of the Hessian, where the probabilities are p, with v [classes, D + 1]."""
        u = v @ self.x
        u *= p
        u -= p * u.sum(0)
        return u @ self.x.T / self.count + self.penalty * v


def _newton(problem: _Problem, weights: np.ndarray) -> np.ndarray:
    p, gradient = problem.slope(weights)
    for _ in range(STEPS):
        if np.abs(gradient).max() <= TOLERANCE:
            break
        step = conjugate_gradients(partial(problem.curvature, p=p), -gradient)
        # the gradient, not the loss, decides: near the minimum losses are equal to the last digit
        tried = (weights + step / 2**halving for halving in range(HALVINGS))
        size = np.linalg.norm(gradient)
        for weights_next in tried:
            p_next, gradient_next = problem.slope(weights_next)
            if np.linalg.norm(gradient_next) < size:
                break
        else:
            break  # only rounding is left
        weights, p, gradient = weights_next, p_next, gradient_next
    return weights


def conjugate_gradients(product: Callable[[np.ndarray], np.ndarray], right: np.ndarray) -> np.ndarray:
    """Return v with product(v) = right up to SOLVED of |right|; product is that of a matrix >= 0."""
    v, residual = np.zeros_like(right), right
    direction, square = residual, np.vdot(residual, residual)
    goal = SOLVED**2 * square
    for _ in range(SOLVER_STEPS):
        image = product(direction)
        bend = np.vdot(direction, image)
        if square <= goal or bend <= 0:
            break
        v = v + square / bend * direction
        residual = residual - square / bend * image
        before, square = square, np.vdot(residual, residual)
        direction = residual + square / before * direction
    return v


def linear_logits(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return logits [N, classes] of `fit_linear`'s weights."""
    return features @ weights[:-1] + weights[-1]
