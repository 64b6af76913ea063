"""Eight common corruptions of ID test images, mild to strong: the same classes under other conditions.

After Hendrycks and Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations
(ICLR 2019, arXiv:1903.12261). The five severities are those of CIFAR-10-C. The code is our own, of eight
kinds that need no more than Pillow and SciPy, and draws its own noise: the images are not CIFAR-10-C's.
Unlike the distortions of `corruptions`, which are outliers, these leave a picture what it was. Every function
takes and returns float64 [N, C, H, W] in [0, 1].
"""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

CITATION = (
    "D. Hendrycks, T. Dietterich, Benchmarking Neural Network Robustness to Common Corruptions, ICLR 2019"
)
BLOCK = 256  # images whose floats exist at a time


def gaussian_noise(images: np.ndarray, scale: float, rng: np.random.Generator) -> np.ndarray:
    """x + scale n with n standard normal, clipped."""
    return np.clip(images + scale * rng.standard_normal(images.shape), 0, 1)


def shot_noise(images: np.ndarray, photons: float, rng: np.random.Generator) -> np.ndarray:
    """Poisson noise: white is a mean of so many photons."""
    return np.clip(rng.poisson(images * photons) / photons, 0, 1)


def impulse_noise(images: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """A share of the values is black or white, half each."""
    draw = rng.random(images.shape)
    return np.where(draw < share, (draw < share / 2).astype(np.float64), images)


def gaussian_blur(images: np.ndarray, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Blurred by a Gaussian of standard deviation sigma, in pixels; the edge goes on beyond itself."""
    return np.clip(gaussian_filter(images, (0, 0, sigma, sigma), mode="nearest"), 0, 1)


def brightness(images: np.ndarray, added: float, rng: np.random.Generator) -> np.ndarray:
    """The largest channel of a pixel, its value in HSV, is raised; hue and saturation stay."""
    value = images.max(axis=1, keepdims=True)
    raised = np.minimum(value + added, 1.0)
    black = value == 0
    return np.where(black, raised, images * (raised / np.where(black, 1.0, value)))


def contrast(images: np.ndarray, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Each channel's distance from its mean over the image, times the factor."""
    mean = images.mean(axis=(2, 3), keepdims=True)
    return np.clip((images - mean) * factor + mean, 0, 1)


def _pictures(images: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """Return what `change` makes of each image of 8 bits, grey or RGB."""
    out = np.empty_like(images)
    for target, image in zip(out, np.rint(images * 255).astype(np.uint8), strict=True):
        picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        found = np.asarray(change(picture)) / 255
        target[:] = found if found.ndim == 2 else found.transpose(2, 0, 1)
    return out


def pixelate(images: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Box-shrunk to this share of the side and box-enlarged again."""
    height, width = images.shape[2:]
    small = max(1, int(width * share)), max(1, int(height * share))
    box = Image.Resampling.BOX
    return _pictures(images, lambda picture: picture.resize(small, box).resize((width, height), box))


def jpeg(images: np.ndarray, quality: float, rng: np.random.Generator) -> np.ndarray:
    """Saved as JPEG of this quality, of 100."""

    def saved(picture: Image.Image) -> Image.Image:
        picture.save(file := BytesIO(), "JPEG", quality=int(quality))
        return Image.open(file)

    return _pictures(images, saved)


Corruption = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
KINDS: dict[str, tuple[Corruption, tuple[float, ...]]] = {  # name -> function, five severities
    "gaussian_noise": (gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "brightness": (brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelate": (pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
    "jpeg": (jpeg, (80, 65, 58, 50, 40)),
}


def commonly_corrupted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return each of uint8 images [N, C, H, W] under one corruption, in the same order.

    The pairs of a kind and a severity take turns over the images in a random order, so each has its share.
    """
    turn = rng.permutation(len(images))
    out = np.empty_like(images)
    for place, (kind, severities) in enumerate(KINDS.values()):
        for level, severity in enumerate(severities):
            own = np.flatnonzero(turn % (len(KINDS) * len(severities)) == place + level * len(KINDS))
            for start in range(0, len(own), BLOCK):
                rows = own[start : start + BLOCK]
                out[rows] = np.rint(kind(images[rows] / 255, severity, rng) * 255).astype(np.uint8)
    return out
