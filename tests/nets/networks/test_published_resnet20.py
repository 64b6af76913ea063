"""A published ResNet-20 (option A shortcuts) in our architecture reaches its published accuracy."""

import pickle

import numpy as np
import torch

from sslood.core.batches import batches
from sslood.nets.inference.extract import extract
from sslood.nets.networks.build import build_backbone
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def published(mirror) -> Model:
    file = mirror / "checkpoints" / "akamaster_resnet20" / "resnet20-12fca82f.th"
    weights = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    head = build_head(64, 10)
    head.load_state_dict({key: weights.pop(f"linear.{key}") for key in ("weight", "bias")})
    backbone = build_backbone("resnet-20-16", channels=3)
    missing, unexpected = backbone.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(key.endswith("num_batches_tracked") for key in missing)  # the file is older than that counter
    return Model(backbone, head)


def cifar10_test(mirror, count: int) -> tuple[np.ndarray, np.ndarray]:
    with open(mirror / "cifar-10-batches-py" / "test_batch", "rb") as file:
        content = pickle.load(file, encoding="latin1")
    return content["data"].reshape(-1, 3, 32, 32)[:count], np.array(content["labels"])[:count]


def test_published_weights_classify_real_images_as_published(mirror):
    images, labels = cifar10_test(mirror, 1000)
    found = extract(published(mirror), batches(images, 250), mean=MEAN, std=STD)
    assert found["features"].shape == (1000, 64)
    # 91.73 % of all 10,000; three standard errors of 1,000 images are 2.6 points
    assert abs((found["logits"].argmax(1) == labels).mean() - 0.9173) < 0.026
