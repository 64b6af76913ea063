"""A small network for grey-and-grey pictures of 8x8, as the functions that detectors of the network query."""

import numpy as np
import torch
from torch import nn

from sslood.ood.kit.network_detector import Network

MEAN, STD = [0.3, 0.5], [0.2, 0.4]


def pictures(n, seed, scale=256):
    """Return uint8 [n, 2, 8, 8]."""
    return np.random.default_rng(seed).integers(0, scale, (n, 2, 8, 8), np.uint8)


class Small(nn.Module):
    """Two convolutions of two strides, and a classifier of their means."""

    def __init__(self, classes=4):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 5, 3, padding=1), nn.Tanh())
        self.second = nn.Sequential(nn.Conv2d(5, 7, 3, 2), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, classes))
        nn.init.normal_(self.head[2].weight, std=5)

    def forward(self, x):
        return self.head(self.second(self.first(x)))


def normalised(images, dtype=torch.float32):
    mean, std = (torch.tensor(v, dtype=dtype).view(1, -1, 1, 1) for v in (MEAN, STD))
    return (torch.from_numpy(images).to(dtype) / 255 - mean) / std


IMAGES = {"train": pictures(700, 0), "validation": pictures(90, 1), "tuning": pictures(80, 2, 128)}
TEST = pictures(60, 3)


def small_model() -> Small:
    """Return a network that predicts every class of IMAGES["train"]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = Small().eval().requires_grad_(False)
    model.head[2].bias -= model(normalised(IMAGES["train"])).mean(0)
    return model


def opened(model: Small, rotations=None) -> Network:
    """Return the functions of a network, written down without hooks."""

    def maps(x, read):
        a = model.first(x)
        b = model.second(a)
        return [read(a), read(b)], model.head(b)

    def stages(x, changes):
        a = changes.get(-2, torch.nn.Identity())(model.first(x))
        b = changes.get(-1, torch.nn.Identity())(model.second(a))
        return [a, b], b.mean((2, 3))

    dtype = model.head[2].weight.dtype
    return Network(MEAN, STD, model, maps, rotations, stages, model.head[2], dtype=dtype)


class Weathervane:
    """Tells the brightest side of an image as its rotation."""

    def __call__(self, x):
        sides = [x[..., 0, :], x[..., :, 0], x[..., -1, :], x[..., :, -1]]
        return torch.stack([side.mean((1, 2)) for side in sides], 1)


VANE = Network(MEAN, STD, rotations=Weathervane())
