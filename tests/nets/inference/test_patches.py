"""Maps of patches against the pooled features, and against the tokens of a transformer taken by hand."""

import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer

from sslood.core.errors import InputError
from sslood.nets.inference.extract import outputs
from sslood.nets.inference.patches import patch_maps, with_patches
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import restore_model
from sslood.nets.networks.model import Model


@pytest.mark.parametrize(("arch", "side"), [("efficientnet_lite-0", 2), ("resnet-8-4", 16)])
def test_the_mean_of_the_map_is_the_features(arch, side, lite0):
    with seeded(0):
        backbone = build_backbone("resnet-8-4", channels=3).eval()
        x = torch.randn(2, 3, 64, 64)
    known = arch == lite0[1].arch
    model = restore_model(lite0[0], lite0[1].metadata(), arch) if known else Model(backbone)
    parts, found = with_patches(model, x)
    assert found.shape == (2, parts["features"].shape[1], side, side)
    assert torch.allclose(found.mean((2, 3)), parts["features"], rtol=1e-5, atol=1e-6)
    with torch.inference_mode():
        alone = outputs(model, x)
    assert torch.equal(alone["features"], parts["features"])
    assert torch.equal(patch_maps(model, x), found)


def test_the_map_of_a_transformer_is_its_tokens_in_their_place():
    with seeded(0):
        network = VisionTransformer(16, 4, 2, 2, 8, 16).eval()
        x = torch.randn(2, 3, 16, 16)
    network.heads = nn.Identity()
    found = patch_maps(Model(network, head=None), x)
    with torch.inference_mode():
        tokens = network._process_input(x)
        tokens = network.encoder(torch.cat((network.class_token.expand(2, -1, -1), tokens), 1))
    assert found.shape == (2, 8, 4, 4)
    for row in range(4):
        for column in range(4):
            assert torch.equal(found[:, :, row, column], tokens[:, 1 + 4 * row + column])


def test_a_network_without_places_is_refused():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    with pytest.raises(InputError, match="no map of patches"):
        patch_maps(Model(flat), torch.zeros(1, 3, 4, 4))
