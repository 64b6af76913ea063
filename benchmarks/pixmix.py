"""PixMix of a batch beside the same algorithm on PIL images and NumPy arrays, one image at a time, one core.

    python -m benchmarks.pixmix

512 images and 512 pictures of 32 x 32, at most four mixings, severity 3. The peer is what a worker of a
DataLoader does for one image: draw, operate with Pillow, mix with NumPy. Both print how far an image is
moved on average, in levels of 255, which says that they do the same work. CPU time, alternating rounds.
"""

import statistics
import time

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps

from sslood.data.images.augment import AugmentSettings, apply_draws, draw

IMAGES, SIZE, MIXINGS, SEVERITY, BETA, ROUNDS = 512, 32, 4, 3.0, 3.0, 7
AFFINE = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y")
ENHANCE = (ImageEnhance.Color, ImageEnhance.Contrast, ImageEnhance.Brightness, ImageEnhance.Sharpness)
OPERATIONS = ("autocontrast", "equalize", "posterize", "solarize", *AFFINE, *ENHANCE)


def operated(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the image after one of the 13 operations, at a level of its own."""
    kind = OPERATIONS[rng.integers(len(OPERATIONS))]
    level = rng.uniform(0.1, SEVERITY) / 10
    if kind == "autocontrast":
        return ImageOps.autocontrast(image)
    if kind == "equalize":
        return ImageOps.equalize(image)
    if kind == "posterize":
        return ImageOps.posterize(image, 4 - int(4 * level))
    if kind == "solarize":
        return ImageOps.solarize(image, 256 - int(256 * level))
    if not isinstance(kind, str):
        return kind(image).enhance(1.8 * level + 0.1)
    return moved(image, kind, level * rng.choice((-1, 1)))


def moved(image: Image.Image, kind: str, level: float) -> Image.Image:
    """Return the image rotated, sheared or shifted, black coming in."""
    if kind == "rotate":
        return image.rotate(int(30 * level), resample=Image.Resampling.BILINEAR)
    slope, pixels = 0.3 * level, int(SIZE / 3 * level)
    matrix = {
        "shear_x": (1, slope, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, slope, 1, 0),
        "translate_x": (1, 0, pixels, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, pixels),
    }[kind]
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR)


def unit(image: Image.Image) -> np.ndarray:
    """Return the levels as float32 in [0, 1]."""
    return np.asarray(image, np.float32) / 255


def cropped(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Return the picture enlarged by 9 / 8 and cropped at random."""
    room = SIZE // 8
    large = picture.resize((SIZE + room, SIZE + room), Image.Resampling.BILINEAR)
    left, top = rng.integers(room + 1, size=2)
    return large.crop((left, top, left + SIZE, top + SIZE))


def mixed(image: Image.Image, picture: Image.Image, rng: np.random.Generator) -> np.ndarray:
    """Return one image as the paper's algorithm 1 mixes it, float32 [H, W, C] in [0, 1]."""
    picture = cropped(picture, rng)
    x = unit(operated(image, rng) if rng.random() < 0.5 else image)
    for _ in range(rng.integers(MIXINGS + 1)):
        y = unit(operated(image, rng) if rng.random() < 0.5 else picture)
        a, b = rng.beta(BETA, 1), rng.beta(1, BETA)
        if rng.random() < 0.5:
            a, b = 1 + b, -rng.beta(1, BETA)
        if rng.random() < 0.5:
            x = (2 * x) ** a * np.maximum(2 * y, 1e-37) ** b / 2
        else:
            x = (a * (2 * x - 1) + b * (2 * y - 1) + 1) / 2
        x = np.clip(x, 0, 1)
    return x


def smooth(coarse: np.ndarray) -> Image.Image:
    """Return an image of the size from fewer pixels."""
    return Image.fromarray(coarse).resize((SIZE, SIZE), Image.Resampling.BICUBIC)


def main() -> None:
    torch.set_num_threads(1)
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    coarse = rng.integers(0, 256, (2, IMAGES, 8, 8, 3), np.uint8)  # enlarged: neighbours resemble each other
    images, pictures = ([smooth(one) for one in part] for part in coarse)
    recipe = AugmentSettings(pixmix=MIXINGS, severity=SEVERITY, beta=BETA)
    batch, others = (
        torch.from_numpy(np.stack([np.asarray(one) for one in part])).permute(0, 3, 1, 2).contiguous()
        for part in (images, pictures)
    )
    times: list[tuple[float, float]] = []
    moves: list[tuple[float, float]] = []
    for turn in range(ROUNDS + 1):  # the first warms up
        start = time.process_time()
        ours = apply_draws(batch, draw(IMAGES, generator, recipe.columns), recipe, pictures=others)
        middle = time.process_time()
        order = rng.permutation(IMAGES)
        theirs = [mixed(image, pictures[at], rng) for image, at in zip(images, order, strict=True)]
        peer = torch.from_numpy(np.stack(theirs)).permute(0, 3, 1, 2).contiguous()
        if turn:
            times.append((middle - start, time.process_time() - middle))
        moves.append(tuple((255 * (part - batch / 255).abs().mean()).item() for part in (ours, peer)))
    mine, other = (1e3 * statistics.median(side) for side in zip(*times, strict=True))
    ratios = sorted(theirs / own for own, theirs in times)
    change = " and ".join(f"{statistics.mean(side):.1f}" for side in zip(*moves, strict=True))
    print(
        f"PixMix of {IMAGES} images of {SIZE}x{SIZE}, one core, medians of {ROUNDS}: ours {mine:.1f} ms, "
        f"PIL and NumPy {other:.1f} ms, ratio {statistics.median(ratios):.1f} ({ratios[0]:.1f} to "
        f"{ratios[-1]:.1f}); moved by {change} levels"
    )


if __name__ == "__main__":
    main()
