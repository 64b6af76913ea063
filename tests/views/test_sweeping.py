"""Ablations of an ensemble: dropout draws of one member, settings swept over test sets, disagreement."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from torch import nn

from sslood.core.errors import InputError
from sslood.nets.networks.model import Model
from sslood.ood.kit.drawing import mc_dropout
from sslood.ood.network.mc_dropout import MCDropout, MCDropoutSettings
from sslood.views.ensemble import Member, ask, evaluate
from sslood.views.opened import open_model
from sslood.views.sweeping import disagreement, sweep_of
from tests.views.test_ensemble import IMAGES, MEAN, MEMBERS, SETTINGS, STD, auroc, score, settings


@pytest.mark.parametrize("dropout", [True, False])
def test_dropout_draws_are_those_of_the_detector(dropout):
    """Of the dropout layers or, without any, of features before the head."""
    torch.manual_seed(0)
    body = [nn.Conv2d(2, 4, 3), nn.Tanh(), *[nn.Dropout(0.4)] * dropout, nn.Flatten()]
    model = Model(nn.Sequential(*body), nn.Linear(36, 3)).eval()
    detector = MCDropout(MCDropoutSettings(draws=5, score="msp"))
    network = open_model(model, mean=MEAN, std=STD, device="cpu")
    expected = detector.fit(network, {}).score(network, IMAGES)
    member = Member(model, range(3), MEAN, STD, network=network)
    seen = []
    found = mc_dropout(network, IMAGES, 5, progress=seen.append)
    np.testing.assert_array_equal(found, expected)
    assert sum(seen) == 300 and not np.allclose(found, -softmax(ask(member, IMAGES, []).logits, 1).max(1))


def test_one_draw_is_no_committee():
    with pytest.raises(InputError, match="draws must be 0, or at least 2"):
        settings(draws=1)


def test_sweep_is_the_auroc_of_every_setting_on_every_ood_set():
    tests = {"own": IMAGES[:100], "far": IMAGES[100:200] // 3, "dusk": IMAGES[200:] // 2}
    found = evaluate(MEMBERS, SETTINGS[0], tests, classes=4, also=dict.fromkeys(tests, SETTINGS))
    swept = sweep_of(MEMBERS, found, SETTINGS, id_name="own", ood=["far"], classes=4)
    np.testing.assert_array_equal(found.swept["far"][SETTINGS[0]], found.rows["far"]["eloc"])
    for setting, point in zip(SETTINGS, swept["points"], strict=True):
        assert {name: point[name] for name in setting._fields} == setting._asdict()
        inside, outside = (sum(score(m, tests[name], setting) for m in MEMBERS) for name in ("own", "far"))
        assert point["auroc"] == {"far": pytest.approx(auroc(inside, outside), abs=2e-3)}
    assert list(swept["disagreement"]) == ["own", "far", "dusk"]


def test_disagreement_counts_a_class_that_is_left_out_as_no_vote():
    """Images 0 and 1 of class 1: the member that leaves it out must disagree; the third splits all."""
    logits = {"a": [np.log(np.array(rows)) for rows in (
        [[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.5, 0.3, 0.2]],  # of classes 1, 2, 3
        [[0.2, 0.5, 0.3], [0.2, 0.6, 0.2], [0.8, 0.1, 0.1]],  # of classes 0, 2, 3
        [[0.1, 0.8, 0.1], [0.2, 0.7, 0.1], [0.1, 0.2, 0.7]],  # of classes 0, 1, 3
    )]}  # fmt: skip
    p = np.zeros((3, 3, 4))
    for k, classes in enumerate(([1, 2, 3], [0, 2, 3], [0, 1, 3])):
        p[k][:, classes] = softmax(logits["a"][k], axis=1)
    mutual = entropy(p.mean(0), axis=1) - entropy(p, axis=2).mean(0)
    members = [Member(MEMBERS[0].forward, c, MEAN, STD) for c in ([1, 2, 3], [0, 2, 3], [0, 1, 3])]
    found = disagreement(members, logits, 4)["a"]
    assert found["variation_ratio"] == pytest.approx(np.mean([1 / 3, 1 / 3, 2 / 3]))
    assert found["mutual_information"] == pytest.approx(mutual.mean(), rel=1e-6)
