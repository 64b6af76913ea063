"""Networks of your own: only from architectures/, whole, and known again by their source."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sslood.core.errors import InputError
from sslood.nets.networks import user_architectures as own
from sslood.nets.networks.build import build_backbone

NET = """
from torch import nn


def mine():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 5), nn.ReLU(), nn.Linear(5, 3))


def number():
    return 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch, request):
    """A working directory with a network of its own, in a file that no other test imports."""
    name = f"net_{abs(hash(request.node.name))}"
    (tmp_path / "architectures").mkdir()
    (tmp_path / "architectures" / f"{name}.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    return f"architectures.{name}"


def test_a_function_gives_the_network_and_a_layer_comes_off(here):
    with torch.random.fork_rng():
        whole, features = own.own_network(f"{here}:mine"), own.own_network(f"{here}:mine:3")
    features.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("3.")})
    x = torch.arange(24.0).reshape(2, 3, 2, 2) / 24
    torch.testing.assert_close(whole[3](features(x)), whole(x))
    assert own.feature_dim(features, "a", channels=3, size=2) == 5
    with pytest.raises(InputError, match="does not accept images of 3x4x4"):
        own.feature_dim(features, "a", channels=3, size=4)
    with pytest.raises(InputError, match=r"returns \(2, 3, 2, 2\), but features"):
        own.feature_dim(nn.Identity(), "a", channels=3, size=2)


def test_a_changed_file_is_noticed(here):
    recorded = own.source(f"{here}:mine")
    own.check_source(f"{here}:mine", recorded, "m.safetensors")
    (path,) = recorded
    with open(path, "a") as file:
        file.write("# changed\n")
    with pytest.raises(
        InputError, match=f"m.safetensors: {path} has changed since this file was made; restore it"
    ):
        own.check_source(f"{here}:mine", recorded, "m.safetensors")


@pytest.mark.parametrize(
    ("arch", "says"),
    [
        ("os:getcwd", "write architectures.<file>:<function>"),
        ("architectures:mine", "write architectures.<file>:<function>"),
        ("architectures.../evil:mine", "write architectures.<file>:<function>"),
        ("architectures.none:mine", "no file architectures/none.py"),
        ("HERE:other", "has no function 'other'"),
        ("HERE:number", "the function must return a torch module, found int"),
        ("HERE:mine:2", "'2' is not a linear layer; there are: 1, 3"),
    ],
)
def test_what_is_no_network_of_yours_is_refused(here, arch, says):
    with pytest.raises(InputError, match=says):
        own.own_network(arch.replace("HERE", here))


def test_the_file_that_is_checked_is_the_file_that_runs(tmp_path, monkeypatch):
    """Another package of the same name, here the repository's, comes first on the path."""
    (tmp_path / "architectures").mkdir()
    mine = tmp_path / "architectures/solo_learn.py"
    mine.write_text(NET)
    monkeypatch.chdir(tmp_path)
    before = sys.modules.pop("architectures.solo_learn", None)
    try:
        assert isinstance(own.own_network("architectures.solo_learn:mine")[1], nn.Linear)
    finally:
        sys.modules.pop("architectures.solo_learn", None)
        if before is not None:
            sys.modules["architectures.solo_learn"] = before


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import nosuchlib\n", "line 1: ModuleNotFoundError: No module named 'nosuchlib'"),
        ("x = 1\ndef mine(:\n", "line 2: SyntaxError: "),
        ("def mine():\n    return 1 / 0\n", "line 2: ZeroDivisionError: division by zero"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(here, code, says):
    path = Path(*here.split(".")).with_suffix(".py")
    path.write_text(code)
    with pytest.raises(InputError, match=re.escape(f"{path}, {says}")):
        own.own_network(f"{here}:mine")


def test_solo_learns_stem_gives_other_features_than_ours():
    theirs = own.own_network("architectures.solo_learn:resnet18").eval()
    ours = build_backbone("resnet18", channels=3).eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    x = torch.linspace(0, 1, 3 * 32 * 32).reshape(1, 3, 32, 32)
    with torch.no_grad():
        assert theirs.conv1(x).shape[-1] == 34 and ours.conv1(x).shape[-1] == 32
        assert theirs(x).shape == (1, 512) and not torch.allclose(theirs(x), ours(x), rtol=1e-3)
