"""Publishers' key layouts on crafted checkpoints: wrapped as they wrap, unwrapped to the very weights."""

import pytest
import torch
from torch import nn
from torchvision.models import resnet18

from sslood.core.errors import InputError
from sslood.nets.adopting.layouts import Layout, load_layouts, weights_of
from sslood.nets.networks.build import build_backbone, seeded


@pytest.fixture(scope="module")
def plain():
    """A torchvision ResNet-18's weights without its classifier."""
    with seeded(5):
        network = resnet18()
    network.fc = nn.Identity()
    return network.state_dict()


def prefixed(state, prefix):
    return {f"{prefix}{key}": value for key, value in state.items()}


def shortcuts(state):
    """Name as in networks/resnet_big.py of SupContrast, and lightly's own ResNet."""
    return {key.replace(".downsample.", ".shortcut."): value for key, value in state.items()}


def children(state):
    """Name as nn.Sequential(*list(resnet.children())[:-1]) does, counted by hand on torchvision's ResNet."""
    place = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
    return {f"{place[key.split('.')[0]]}.{key.split('.', 1)[1]}": value for key, value in state.items()}


def more(*names):
    return {f"{name}.weight": torch.zeros(2, 2) for name in names}


WRAPPED = {
    "plain": lambda s: s,
    "torchvision_encoder": lambda s: s | more("fc"),
    "barlow_twins": lambda s: s,
    "barlow_twins_checkpoint": lambda s: {
        "epoch": 3,
        "model": prefixed(s, "module.backbone.") | more("module.projector.0", "module.bn"),
    },
    "vicreg": lambda s: s,
    "vicreg_checkpoint": lambda s: {"model": prefixed(s, "module.backbone.") | more("module.projector.3")},
    "dino": lambda s: s,
    "dino_checkpoint": lambda s: {
        "student": more("x"),
        "teacher": prefixed(s, "module.backbone.") | more("module.head.mlp.0"),
    },
    "byol": lambda s: {"online_backbone": prefixed(s, "module.")},
    "moco": lambda s: {
        "state_dict": prefixed(s, "module.encoder_q.")
        | prefixed(s, "module.encoder_k.")
        | more("module.encoder_q.fc.0", "module.encoder_k.fc.0")
        | {"module.queue": torch.zeros(2), "module.queue_ptr": torch.zeros(1)}
    },
    "simclr": lambda s: {"state_dict": prefixed(s, "backbone.") | more("backbone.fc.0", "backbone.fc.2")},
    "supcon": lambda s: {"model": prefixed(shortcuts(s), "encoder.module.") | more("head.0", "head.2")},
    "solo_learn": lambda s: {
        "state_dict": prefixed(s, "backbone.")
        | prefixed(s, "momentum_backbone.")
        | more("classifier", "projector.0", "momentum_projector.0")
    },
    "lightly": lambda s: {
        "state_dict": prefixed(children(s), "backbone.") | more("projection_head.layers.0")
    },
}


@pytest.mark.parametrize("name", WRAPPED)
def test_a_publishers_checkpoint_gives_the_weights_under_our_names(plain, name):
    found = weights_of(WRAPPED[name](plain), load_layouts()[name], name)
    assert found.keys() == plain.keys()
    assert all(found[key] is plain[key] for key in plain)
    build_backbone("resnet18-imagenet", channels=3).load_state_dict(found, strict=True)


def test_layouts_with_a_head_keep_it(plain):
    head = {"linear.weight": torch.zeros(10, 512), "linear.bias": torch.zeros(10)}
    layouts = load_layouts()
    found = weights_of({"state_dict": prefixed(plain | head, "module.")}, layouts["akamaster"], "f")
    assert layouts["akamaster"].head == "linear" and found.keys() == plain.keys() | head.keys()
    found = weights_of(plain | more("fc"), layouts["torchvision"], "f")
    assert layouts["torchvision"].head == "fc" and "fc.weight" in found
    found = weights_of({"model": prefixed(shortcuts(plain), "encoder.") | more("fc")}, layouts["supce"], "f")
    assert found.keys() == plain.keys() | {"fc.weight"}


def test_every_layout_is_tested_and_names_its_source():
    layouts = load_layouts()
    assert layouts.keys() == WRAPPED.keys() | {"torchvision", "akamaster", "supce", "efficientnet_lite"}
    assert all(layout.source for layout in layouts.values())


@pytest.mark.parametrize(
    ("checkpoint", "rules", "says"),
    [
        ({"model": {}}, {"state": "state_dict"}, "'state_dict' is not in the file, which holds model"),
        ({"state_dict": 3}, {"state": "state_dict"}, "holds int at state 'state_dict'"),
        ({"a.x": torch.zeros(1), "x": torch.zeros(1)}, {"strip": ("a.",)}, "'a.x' and 'x' both become 'x'"),
        ({"epoch": 3}, {}, "'epoch' is of type int, not a tensor"),
        ({"x": torch.zeros(1)}, {"rename": ("x y",)}, "rename rule 'x y'"),
        ({"x": torch.zeros(1)}, {"rename": ("( -> y",)}, "rename rule"),
    ],
)
def test_a_wrong_rule_is_named(checkpoint, rules, says):
    with pytest.raises(InputError, match=says.replace("(", r"\(")):
        weights_of(checkpoint, Layout(source="here", **rules), "file.pth")
