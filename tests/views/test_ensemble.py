"""The leave-out ensemble on small made networks: perturbation, votes, rows, class predictions."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from scipy.stats import entropy
from sklearn.metrics import roc_auc_score
from torch import nn

from sslood.core.errors import InputError, LeftOut
from sslood.core.settings import checked
from sslood.ood.kit.perturbation import choose_epsilon, gradient_sign, gradient_signs, perturb
from sslood.views.choosing import choose
from sslood.views.classes import class_predictions
from sslood.views.ensemble import (
    PLAIN,
    EnsembleSettings,
    Member,
    Setting,
    ask,
    evaluate,
    mean_probabilities,
    rows_left_out,
    score_rows,
)

MEAN, STD = [0.4, 0.5], [0.2, 0.5]
SECTION = {
    "temperatures": [1.0, 1000.0], "epsilons": [0.0, 0.003], "targets": ["predicted", "entropy"],
    "choose_on": "tuning", "precision": "float32",
}  # fmt: skip


def network(seed, outputs=3):
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, outputs))
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval().requires_grad_(False)


MEMBERS = [Member(network(k), [c for c in range(4) if c != k], MEAN, STD, name=f"{k}") for k in range(4)]
IMAGES = np.random.default_rng(0).integers(0, 256, size=(300, 2, 5, 5), dtype=np.uint8)
LABELS = np.arange(300) % 4


def settings(**changes):
    return checked(EnsembleSettings, {**SECTION, **changes}, "ensemble")


def normal(images):
    mean, std = (torch.tensor(v).view(1, 2, 1, 1) for v in (MEAN, STD))
    return (torch.from_numpy(images).float() / 255 - mean) / std


@pytest.mark.parametrize("target", ["predicted", "entropy"])
def test_sign_of_the_gradient_by_finite_differences(target):
    model, temperature = network(0).double(), 1000.0 if target == "predicted" else 2.0
    images = torch.from_numpy(IMAGES[:2] / 255.0)
    (sign,), logits = gradient_signs(model, images, [(target, temperature)])
    label, step = logits.argmax(1), 1e-5

    def loss(moved, image):
        logits = model(moved) / temperature
        if target == "predicted":
            return nn.functional.cross_entropy(logits, label[image : image + 1]).item()
        return entropy(softmax(logits.numpy(), axis=1), axis=1)[0]

    for image in range(2):
        for c, i, j in np.ndindex(2, 5, 5):
            losses = []
            for side in (step, -step):
                moved = images[image : image + 1].clone()
                moved[0, c, i, j] += side
                losses.append(loss(moved, image))
            assert np.sign(losses[0] - losses[1]) == sign[image, c, i, j].item()


def test_gradients_of_one_pass_are_those_of_one_pass_each():
    targets = [("predicted", 1000.0), ("entropy", 1000.0), ("predicted", 1.0)]
    together, _ = gradient_signs(network(2), normal(IMAGES), targets)
    for target, sign in zip(targets, together, strict=True):
        assert torch.equal(gradient_signs(network(2), normal(IMAGES), [target])[0][0], sign)
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("target", ["predicted", "entropy"])
def test_perturbation_makes_the_prediction_surer_in_pixel_units(target):
    model = network(1)
    images = torch.from_numpy(IMAGES).float() / 255
    (sign,), logits = gradient_signs(model, images, [(target, 1000.0)])
    moved = perturb(images, sign, 0.002, STD)
    step = (moved - images).abs().amax(dim=(0, 2, 3))
    np.testing.assert_allclose(step * torch.tensor(STD), 0.002, rtol=1e-3)
    before, after = (
        entropy(softmax(x.double().numpy(), axis=1), axis=1) for x in (logits / 9, model(moved) / 9)
    )
    assert (after < before).mean() > 0.98


def reference(member, images, setting):
    """Return (largest probability, entropy, probabilities), plainly."""
    x = normal(images).requires_grad_(True)
    logits = member.forward(x)
    if setting.target == "predicted":
        loss = nn.functional.cross_entropy(logits / setting.temperature, logits.argmax(1), reduction="sum")
    else:
        p = (logits.double() / setting.temperature).softmax(1)
        loss = -(p * p.log()).sum()
    loss.backward()
    moved = x.detach() - setting.epsilon / torch.tensor(STD).view(1, 2, 1, 1) * x.grad.sign()
    p = softmax(member.forward(moved).double().numpy() / setting.temperature, axis=1)
    return p.max(1), -(p * np.log(p)).sum(1), p


SETTINGS = [Setting(1000.0, 0.003), Setting(5.0, 0.003, "entropy"), PLAIN]


@pytest.mark.parametrize("setting", SETTINGS)
def test_rows_equal_the_formulas(setting):
    found = evaluate(MEMBERS, setting, {"a": IMAGES}, classes=4)
    rows, logits = found.rows["a"], found.logits["a"]
    parts = [reference(member, IMAGES, setting) for member in MEMBERS]
    plain = [reference(member, IMAGES, PLAIN) for member in MEMBERS]
    uniform = 1 / 3 - np.log(3)  # of the uniform distribution, from which votes are measured
    expected = {f"eloc_{k}": -sum(p[0] - p[1] for p in parts[:k]) + k * uniform for k in (1, 2, 3)} | {
        "eloc": -sum(p[0] - p[1] for p in parts) + 4 * uniform,
        "eloc_max": -sum(p[0] for p in parts) + 4 / 3,
        "eloc_entropy": sum(p[1] for p in parts) - 4 * np.log(3),
        "eloc_noodin": -sum(p[0] - p[1] for p in plain) + 4 * uniform,
        "member_odin": -parts[0][0] + 1 / 3,
        "member_msp": -plain[0][0] + 1 / 3,
        "member_energy": -logsumexp(MEMBERS[0].forward(normal(IMAGES)).double().numpy(), axis=1),
    }
    whole = np.zeros((300, 4))
    for member, (_, _, p) in zip(MEMBERS, plain, strict=True):
        whole[:, member.head_classes] += p / 4
    expected["mean_msp"] = 1 - whole.max(1)
    np.testing.assert_allclose(mean_probabilities(MEMBERS, logits, 4), whole, atol=1e-6)
    assert rows.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(rows[name], values, rtol=0, atol=2e-6, err_msg=name)
    bare = score_rows(MEMBERS, None, logits, 4)
    assert rows.keys() - bare.keys() == set(rows_left_out(4))


def test_left_out_classes_have_probability_zero():
    logits = [ask(MEMBERS[0], IMAGES, []).logits]
    assert (mean_probabilities(MEMBERS[:1], logits, 4)[:, 0] == 0).all()
    logits = [ask(member, IMAGES, []).logits for member in MEMBERS]
    assert mean_probabilities(MEMBERS, logits, 4).max() <= 3 / 4


def test_several_settings_equal_one_by_one_and_batches_do_not_matter():
    several = [Setting(1000.0, 0.0), Setting(1000.0, 0.002), Setting(1.0, 0.002, "entropy"), PLAIN]
    together = ask(MEMBERS[0], IMAGES, several)
    for setting, votes in zip(several, together.votes, strict=True):
        alone = ask(MEMBERS[0], IMAGES, [setting])
        np.testing.assert_allclose(alone.votes[0].score, votes.score, atol=1e-9)
        np.testing.assert_allclose(alone.logits, together.logits, atol=1e-6)
    few = ask(MEMBERS[0], IMAGES[:7], several[1:2])
    np.testing.assert_allclose(few.votes[0].score, together.votes[1].score[:7], atol=1e-7)


def test_epsilon_is_the_best_and_the_smallest_of_equals():
    inside = np.array([[0.0, 1.0]] * 4)
    outside = np.array([[0.0, 1.0], [2.0, 3.0], [4.0, 5.0], [0.0, 0.0]])
    best, aurocs = choose_epsilon([0.0, 0.004, 0.002, 0.001], inside, outside)
    assert best == 0.002
    assert aurocs == {"0.0": 0.5, "0.004": 1.0, "0.002": 1.0, "0.001": 0.25}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"epsilons": [-0.1]}, "ensemble.epsilons must be at least 0, found -0.1"),
        ({"temperatures": [0]}, "ensemble.temperatures must be above 0, found 0"),
        ({"epsilons": []}, "epsilons must list at least one candidate"),
        ({"targets": []}, "targets must list at least one candidate"),
        ({"targets": ["msp"]}, "ensemble.targets: must be one of predicted, entropy, found 'msp'"),
        ({"fallback": [0.0, 1000.0]}, r"fallback must be a temperature above 0 and a step, e.g. "),
        ({"fallback": [1000.0]}, "or empty, found [1000.0]"),
        ({"fallback": [9.0, -0.1]}, "ensemble.fallback must be at least 0, found -0.1"),
        ({"temperature": 3}, "'temperature' is gone: write `ensemble.temperatures`"),
    ],
)
def test_settings_that_cannot_be(wrong, says):
    with pytest.raises(InputError, match=says.replace("[", r"\[")):
        settings(**wrong)


def test_candidates_without_a_step_have_no_target():
    assert settings().candidates == [
        Setting(1.0, 0.0), Setting(1.0, 0.003), Setting(1.0, 0.003, "entropy"),
        Setting(1000.0, 0.0), Setting(1000.0, 0.003), Setting(1000.0, 0.003, "entropy"),
    ]  # fmt: skip


def auroc(inside, outside):
    labels = [0] * len(inside) + [1] * len(outside)
    return roc_auc_score(labels, np.concatenate((inside, outside)))


def score(member, images, setting):
    largest, spread, _ = reference(member, images, setting)
    return spread - largest


def test_the_choice_is_the_best_auroc_of_the_sums_against_tuning():
    tuning = IMAGES[200:] // 3
    chosen, found = choose(MEMBERS, IMAGES[:200], LABELS[:200], tuning, settings())
    expected = [
        auroc(*(sum(score(m, images, one) for m in MEMBERS) for images in (IMAGES[:200], tuning)))
        for one in settings().candidates
    ]
    np.testing.assert_allclose([one["auroc"] for one in found], expected, atol=1e-3)
    assert chosen == settings().candidates[int(np.argmax(expected))]
    assert [{**one._asdict()} for one in settings().candidates] == [
        {key: value for key, value in one.items() if key != "auroc"} for one in found
    ]


def test_the_choice_on_left_out_classes_sees_no_other_set():
    """The mean over members of the AUROC of the own score, kept against left-out validation images."""
    plan = settings(choose_on="leftout")
    chosen, found = choose(MEMBERS, IMAGES, LABELS, None, plan)
    expected = [
        np.mean(
            [
                auroc(*(score(m, IMAGES[(LABELS == k) == left], one) for left in (False, True)))
                for k, m in enumerate(MEMBERS)
            ]
        )
        for one in plan.candidates
    ]
    np.testing.assert_allclose([one["auroc"] for one in found], expected, atol=1e-3)
    assert chosen == plan.candidates[int(np.argmax(expected))]
    with pytest.raises(LeftOut, match="a member has none"):
        choose(MEMBERS, IMAGES, np.where(LABELS == 2, 1, LABELS), None, plan)


def test_without_candidates_or_images_there_is_no_choice():
    only = settings(temperatures=[7.0], epsilons=[0.001], targets=["entropy"])
    assert choose(MEMBERS, IMAGES, LABELS, None, only) == (Setting(7.0, 0.001, "entropy"), [])
    with pytest.raises(LeftOut, match="a set with role tuning, and there is none"):
        choose(MEMBERS, IMAGES, LABELS, None, settings())


def test_in_double_precision_the_votes_hardly_change():
    wide = replace(MEMBERS[0], forward=copy.deepcopy(MEMBERS[0].forward).double(), dtype=torch.float64)
    single, double = (ask(one, IMAGES, [PLAIN]).votes[0].score for one in (MEMBERS[0], wide))
    np.testing.assert_allclose(single, double, atol=1e-5)
    assert not np.array_equal(single, double)


def test_class_predictions_of_known_probabilities():
    """Two members that leave out one class each of three; softmax of logarithms gives them back."""
    members = [replace(MEMBERS[0], head_classes=[0, 1], name="a"), replace(MEMBERS[0], head_classes=[1, 2])]
    probabilities = [
        np.array([[0.9, 0.1], [0.4, 0.6], [0.8, 0.2]]),
        np.array([[0.5, 0.5], [0.1, 0.9], [0.7, 0.3]]),
    ]
    logits = [np.log(p) for p in probabilities]
    found = class_predictions(members, logits, np.array([0, 2, 1]), 3)
    # means: (0.45, 0.3, 0.25), (0.2, 0.35, 0.45), (0.4, 0.45, 0.15)
    assert found["accuracy"] == 1.0 and found["mistakes"]["error"] == 0
    assert found["mistakes"]["ece"] == pytest.approx(0.55)
    assert found["members"]["a"] == {"accuracy": 0.5, "ece": pytest.approx(0.45)}
    with pytest.raises(InputError, match="probabilities are NaN"):
        class_predictions(members, [logits[0], logits[1] * np.nan], np.array([0, 2, 1]), 3)
    with pytest.raises(InputError, match="are NaN"):
        mean_probabilities(members, [logits[0] * np.nan, logits[1]], 3)
    assert class_predictions(members, logits, np.array([0, 0, 0]), 3)["accuracy"] == pytest.approx(1 / 3)


def test_gradient_sign_is_that_of_odin():
    one, logits = gradient_sign(network(1), normal(IMAGES), 1000.0)
    (same,), others = gradient_signs(network(1), normal(IMAGES), [("predicted", 1000.0)])
    assert torch.equal(one, same) and torch.equal(logits, others)
