"""Whether a classifier tells vectors of a batch from reference vectors: a classifier two-sample test.

Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017, arXiv:1610.06545. The classifier is
kernel least squares, so each vector is judged by one that did not see it, in closed form (Rifkin and Lippert,
"Notes on regularized least squares", MIT-CSAIL-TR-2007-025), and p comes from permutations in which the
classifier learns anew: all vectors teach and all are judged. Unlike MMD it weighs directions in which
vectors vary little as much as the others.
"""

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.stats import rankdata

RIDGE = 1.0  # times the mean eigenvalue of the kernel; 0.01 to 10 were tried on shifts, mixtures and widths


def held_out_outputs(kernel: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """Return what classifiers say of vectors that they did not see: float64 [N, C], large for those chosen.

    kernel [N, N]: centred. Each choice, bool [C, N], is learned by least squares from all vectors but one,
    and asked about that one.
    """
    count = len(kernel)
    targets = choices.T - choices.mean(1)
    ridge = RIDGE * np.trace(kernel) / count
    inverse = cho_solve(cho_factor(kernel + ridge * np.eye(count)), np.eye(count))
    found: np.ndarray = targets - (inverse @ targets) / np.diag(inverse)[:, None]
    return found


def aurocs(outputs: np.ndarray, choices: np.ndarray) -> np.ndarray:
    """Return for each choice, bool [C, N], the probability that its outputs [N, C] rank a chosen vector above
    another, ties by half: float64 [C]."""
    first = choices.sum(1)
    ranks = np.einsum("nc,cn->c", rankdata(outputs, axis=0), choices)
    return (ranks - first * (first + 1) / 2) / (first * (choices.shape[1] - first))


def told_apart(squares: np.ndarray, width: float, choices: np.ndarray) -> np.ndarray:
    """Return AUROC float64 [C] of classifiers of vectors with these squared distances [N, N], one for each
    choice, bool [C, N], on vectors that they did not see. width: of their Gaussian kernel."""
    if width <= 0:  # all vectors are the same
        return np.full(len(choices), 0.5)
    kernel = np.exp(-squares / (2 * width**2))
    means = kernel.mean(0)
    return aurocs(held_out_outputs(kernel - means - means[:, None] + means.mean(), choices), choices)
