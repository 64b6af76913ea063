"""EfficientNet-lite against its published sizes, TensorFlow's padding, and ImageNet."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sslood.core.batches import normalise
from sslood.data.sets.convert import converted
from sslood.deploy.pictures import chain_of
from sslood.nets.adopting.obtaining import packaged
from sslood.nets.adopting.presets import load_presets
from sslood.nets.adopting.weights import read_checkpoint
from sslood.nets.backbones.efficientnet_lite import SameConv2d
from sslood.nets.networks.build import build_backbone
from sslood.nets.networks.files import restore_model


@pytest.mark.parametrize(
    ("size", "pixels", "millions", "madds"),
    [(0, 224, 4.7, 407), (2, 260, 6.1, 899)],
)
def test_sizes_are_the_published_ones(size, pixels, millions, madds):
    """The table of the TPU repository, models/official/efficientnet/lite; it counts the classifier too."""
    with torch.device("meta"):
        network = build_backbone(f"efficientnet_lite-{size}", channels=3).eval()
        x = torch.zeros(1, 3, pixels, pixels)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        assert network(x).shape == (1, 1280)
    total = sum(p.numel() for p in network.parameters()) + 1281 * 1000
    assert round(total / 1e6, 1) == pytest.approx(millions, abs=0.051)
    assert counter.get_total_flops() / 2e6 == pytest.approx(madds, rel=0.06)


@pytest.mark.parametrize(("kernel", "side", "tap"), [(3, 8, 0), (5, 8, 1), (3, 7, 1), (5, 7, 2)])
def test_padding_is_tensorflows(kernel, side, tap):
    """SAME, stride 2: of even sides the odd row lies below, so this tap sees every second pixel."""
    layer = SameConv2d(1, 1, kernel, 2, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, 0, tap, tap] = 1
    x = torch.randn(1, 1, side, side)
    assert torch.equal(layer(x), x[:, :, ::2, ::2])


def test_the_published_weights_know_imagenet(mirror, lite0):
    arrays, card = lite0
    model = restore_model(arrays, card.metadata(), "lite0")
    raw = read_checkpoint(packaged(load_presets()["efficientnet-lite0"].weights))
    files = sorted(
        (mirror / "photos/imagenet-samples").iterdir()
    )  # by WordNet's numbers: the order of the head
    rows = np.arange(3, 1000, 40)
    pixels = np.stack([converted(files[row], chain_of(card.metadata()), []) for row in rows])
    with torch.inference_mode():
        features = model.features(normalise(torch.from_numpy(pixels), card.mean, card.std))
        logits = features @ raw["_fc.weight"].T + raw["_fc.bias"]
    assert (logits.argmax(1).numpy() == rows).mean() >= 0.85
