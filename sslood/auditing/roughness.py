"""The artefact probe: one number per image that knows nothing of its content.

A detector that does no better than this number may distinguish sets by their resampling: pictures shrunk
without antialiasing (the resized sets published with ODIN: Liang et al., Enhancing the Reliability of
Out-of-distribution Image Detection in Neural Networks, ICLR 2018, arXiv:1706.02690) keep steps between
neighbours that a proper filter smooths away.
"""

import numpy as np

_BLOCK = 1024  # images at a time, so that floats of a whole set never exist


def artefact_scores(images: np.ndarray) -> np.ndarray:
    """Return float64 [N] for uint8 images [N, C, H, W]: mean absolute gradient over standard deviation.

    The gradient is the difference of neighbours, averaged over both directions and all channels; the
    deviation is over all pixels of a channel, averaged over channels. So only its roughness counts,
    not the brightness or contrast of the picture. Larger = rougher = more OOD by declaration (a set that is
    smoother than the ID set gets an AUROC below one half). A picture of one colour scores 0.
    """
    blocks = [images[start : start + _BLOCK] for start in range(0, len(images), _BLOCK)]
    return np.concatenate([_scores(block.astype(np.float64)) for block in blocks] or [np.zeros(0)])


def _scores(x: np.ndarray) -> np.ndarray:
    down, right = np.abs(np.diff(x, axis=2)), np.abs(np.diff(x, axis=3))
    gradient = (down.mean((1, 2, 3)) + right.mean((1, 2, 3))) / 2
    deviation = x.std((2, 3)).mean(1)
    return np.divide(gradient, deviation, out=np.zeros(len(x)), where=deviation > 0)
