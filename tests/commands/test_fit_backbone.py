"""`sslood fit` with a backbone of another library: the file decides without its weights."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from sslood.commands import fit
from sslood.deploy.pictures import chain_of, decide_pictures, read_pictures
from sslood.deploy.scorer import load_deployed
from tests.kit.small import call


@pytest.fixture
def normal(tmp_path):
    """40 pictures of smooth colours."""
    rng = np.random.default_rng(0)
    (tmp_path / "normal").mkdir()
    for number in range(40):
        small = rng.integers(60, 200, (3, 3, 3), np.uint8)
        Image.fromarray(small).resize((48, 40), Image.Resampling.BICUBIC).save(
            tmp_path / f"normal/{number:02}.png"
        )
    return tmp_path / "normal"


def test_fit_takes_weights_and_size_and_the_file_needs_neither(normal, tmp_path, capsys):
    weights = tmp_path / "vit.pth"
    torch.save(timm.create_model("test_vit").state_dict(), weights)
    arguments = {"images": normal, "backbone": "timm:test_vit", "out": tmp_path / "d.safetensors"}
    arguments |= {"weights": weights, "size": 32, "square": "pad", "alpha": 0.1, "detector": "knn"}
    assert call(fit.main, **arguments) == 0
    weights.unlink()
    scorer = load_deployed(tmp_path / "d.safetensors")
    assert (scorer.metadata["arch"], scorer.metadata["size"]) == ("timm:test_vit", 32)
    ((_, images),) = read_pictures(sorted(normal.iterdir()), chain_of(scorer.metadata))
    bars = [0, 1, -3, -2, -1]  # above and below 27 rows
    assert not images[:, :, bars].any() and images[:, :, 2:-3].any(axis=1).all()
    paths, decisions = decide_pictures(scorer, sorted(normal.iterdir()))
    assert len(paths) == 40 and decisions.is_ood.mean() <= 0.3
    assert call(fit.main, **arguments) == 1
    assert "vit.pth': no such file here" in capsys.readouterr().err
