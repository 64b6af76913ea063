"""Named methods: each loss against its formula in float64 and pytorch-ood's, and the stage on digits."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from pytorch_ood.loss import LogitNorm
from scipy import stats

from sslood.core.errors import InputError, LeftOut
from sslood.core.files import load_tensors, read_metadata, save_tensors
from sslood.nets.methods.logitnorm import normalised_logits
from sslood.nets.methods.regmixup import mixed, mixing, regmixup
from sslood.nets.methods.t2fnorm import NormedHead
from sslood.nets.methods.variants import MethodSettings, Variant, read_method
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import load_model
from sslood.nets.networks.heads import build_head
from sslood.nets.networks.model import Model
from stages.methods import main
from stages.train import main as train
from tests.kit.small import call, set_metadata, write_encoder, write_params, write_sets
from tests.nets.methods.test_classify import SECTION

METHODS = {
    "plain": {},
    "logitnorm": {"loss": "logitnorm", "temperature": 0.1},
    "t2fnorm": {"loss": "t2fnorm", "temperature": 0.1},
    "t2fnorm_published": {"loss": "t2fnorm", "temperature": 0.1, "length": "one"},
    "regmixup": {"regmixup": 10},
    "rotpred": {"rotation": 1.0},
    "turned_and_mixed": {"rotation": 0.5, "regmixup": 10},
    "all": {"loss": "t2fnorm", "temperature": 0.1, "rotation": 0.5, "augment": {"pixmix": 2, "cutout": 3}},
    "own": {"epochs": 2, "label_smoothing": 0.1, "augment": {"pad": 0}},
}


def batch(seed=0, n=12, k=5):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, k, dtype=torch.float64, generator=generator)
    return logits, torch.randint(k, (n,), generator=generator)


@pytest.mark.parametrize("temperature", [0.04, 1.0])
def test_logitnorm_is_pytorch_oods(temperature):
    logits, labels = batch()
    ours = F.cross_entropy(normalised_logits(logits, temperature), labels)
    torch.testing.assert_close(ours, LogitNorm(t=temperature)(logits, labels), atol=0, rtol=1e-6)
    scores = logits.numpy() / (temperature * np.linalg.norm(logits.numpy(), axis=1, keepdims=True))
    chosen = scores[np.arange(len(scores)), labels]
    assert ours.item() == pytest.approx(np.mean(np.log(np.exp(scores).sum(1)) - chosen), rel=1e-6)


def test_t2fnorm_trains_on_unit_features_and_is_tested_on_scaled_ones():
    z, labels = batch(k=8)
    with seeded(0):
        plain = build_head(8, 5).double()
    plain.bias.data += torch.arange(5)
    head = NormedHead(plain, 0.1).double()
    weight, bias = plain.weight.detach(), plain.bias.detach()
    unit = z / z.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(head.train()(z).detach(), 10 * unit @ weight.T + bias)
    tested = head.eval()(z).detach()
    torch.testing.assert_close(tested, 10 * z @ weight.T + bias)
    torch.testing.assert_close(head.folded()(z).detach(), tested)
    assert type(head.folded()) is torch.nn.Linear


def test_t2fnorm_is_tested_as_sharply_as_it_was_trained():
    """Features of any scale give the logits that features of mean length 1 give as published."""
    z = batch(k=8)[0]
    with seeded(0):
        plain = build_head(8, 5).double()
    lengths = np.linalg.norm(z.numpy(), axis=1)
    expected = 10 * (z / lengths.mean()) @ plain.weight.detach().T + plain.bias.detach()
    for scale in (0.01, 1.0, 300.0):
        head = NormedHead(plain, 0.1).double().eval()
        head.measure(scale * z)
        for tested in (head, head.folded()):
            torch.testing.assert_close(tested(scale * z).detach(), expected)
        assert not torch.equal(head.train()(z), expected)  # training is by unit features, as before
    dead = NormedHead(plain, 0.1).double().eval()
    dead.measure(torch.zeros(3, 8))
    assert dead.length == 1 and dead(z).isfinite().all()


def test_regmixup_is_the_mean_over_images_and_mixed_ones():
    images = torch.rand(6, 1, 4, 4, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    partner, share = mixing(6, 10, generator)
    assert sorted(partner.tolist()) == list(range(6)) and 0 < share < 1
    both = mixed(images, partner, share)
    lam = share.item()
    assert torch.equal(both[:6], images)
    np.testing.assert_allclose(both[6:], lam * images + (1 - lam) * images[partner], atol=1e-7)
    logits = batch(n=12)[0]
    labels = batch(n=6)[1]
    targets = F.one_hot(labels, 5).double()
    targets = torch.cat((targets, lam * targets + (1 - lam) * targets[partner]))
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    assert regmixup(F.cross_entropy, logits, labels, partner, share).item() == pytest.approx(
        expected.item(), rel=1e-6
    )


@pytest.mark.parametrize("alpha", [1, 10])
def test_the_share_follows_its_beta_law(alpha):
    generator = torch.Generator().manual_seed(0)
    shares = [mixing(2, alpha, generator)[1].item() for _ in range(2000)]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-3


@pytest.mark.parametrize("alpha", [0, 10])
def test_turns_are_of_the_images_alone_and_classes_of_mixtures_too(alpha):
    """The loss of a step against one by hand, image by image, of a network in evaluation mode."""
    with seeded(0):
        backbone = build_backbone("resnet-8-4", channels=1)
        model = Model(backbone, build_head(16, 5), rotation=build_head(16, 4)).eval()
    task = Variant.__new__(Variant)
    task.model, task._outputs, task.method = model, task._run, MethodSettings(rotation=0.5, regmixup=alpha)
    task.settings = SimpleNamespace(label_smoothing=0.0)
    task._mixing = torch.Generator().manual_seed(1)
    images, labels = torch.rand(6, 1, 8, 8), batch(n=6)[1]
    loss, terms = task.step((images, labels))

    def log_p(pictures, head):
        with torch.no_grad():
            return np.concatenate([head(backbone(one[None])).log_softmax(1).numpy() for one in pictures])

    rows, classes = np.arange(6), -log_p(images, model.head)[np.arange(6), labels].mean()
    if alpha:
        partner, share = mixing(6, alpha, torch.Generator().manual_seed(1))
        lam = share.item()
        both = -log_p(lam * images + (1 - lam) * images[partner], model.head)
        classes += (lam * both[rows, labels] + (1 - lam) * both[rows, labels[partner]]).mean()
        classes /= 2
    quarters = [torch.from_numpy(np.rot90(images.numpy(), k, (2, 3)).copy()) for k in range(4)]
    turns = -np.mean([log_p(pictures, model.rotation)[:, k] for k, pictures in enumerate(quarters)])
    assert terms["classes"].item() == pytest.approx(classes, rel=1e-5)
    assert terms["rotation"].item() == pytest.approx(turns, rel=1e-5)
    assert loss.item() == pytest.approx(classes + 0.5 * turns, rel=1e-5)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with digits, an untrained encoder, pictures to mix in and the sections of the methods."""
    folder = tmp_path_factory.mktemp("methods")
    write_sets(folder)
    rng = np.random.default_rng(0)
    pictures = {
        "train.images": rng.integers(0, 256, (20, 1, 8, 8), np.uint8),
        "train.labels": np.full(20, -1),
    }
    save_tensors(folder / "mixing.safetensors", pictures, kind="set", metadata=set_metadata("mixing", [], {}))
    write_encoder(folder / "scratch-0.safetensors")
    params = yaml.safe_load(write_params(folder / "params.yaml").read_text())
    (folder / "params.yaml").write_text(yaml.safe_dump({**params, "methods": METHODS}))
    return folder


@pytest.fixture
def run(place, tmp_path, monkeypatch):
    """Return the options of a run of the method of that name."""
    monkeypatch.setenv("SSLOOD_SCRATCH", str(tmp_path / "scratch"))
    monkeypatch.setenv("SSLOOD_THREADS", "1")

    def options(method: str, **changes):
        return {
            "method": method, "seed": 0, "id_set": place / "digits.safetensors",
            "mixing_set": place / "mixing.safetensors", "init_model": place / "scratch-0.safetensors",
            "variant": f"{place}/params.yaml:methods.{method}",
            "recipe": f"{place}/params.yaml:augment.classifier",
            "out": tmp_path / f"{method}.safetensors", "out_curves": tmp_path / f"{method}.csv",
            **SECTION, **changes,
        }  # fmt: skip

    return options


def test_plain_is_the_stage_train_from_an_untrained_encoder(run, tmp_path):
    assert call(main, **run("plain", epochs=1, warmup_epochs=0)) == 0
    options = run("plain", epochs=1, warmup_epochs=0, name="classifier_scratch", out=tmp_path / "other")
    for key in ("method", "mixing_set", "variant"):
        del options[key]
    assert call(train, **options) == 0
    ours, theirs = (load_tensors(tmp_path / name)[0] for name in ("plain.safetensors", "other"))
    assert ours.keys() == theirs.keys() and all((ours[key] == theirs[key]).all() for key in ours)
    card = load_model(tmp_path / "plain.safetensors")[1]
    assert (card.name, card.objective, card.stage) == ("plain", "method", "methods")


@pytest.mark.parametrize("method", ["logitnorm", "t2fnorm", "regmixup", "rotpred", "turned_and_mixed", "all"])
def test_a_method_learns_digits_and_its_file_is_an_ordinary_model(run, method):
    options = run(method)
    assert call(main, **options) == 0
    model, card = load_model(options["out"])
    assert type(model.head) is torch.nn.Linear and card.head_classes == list(range(8))
    assert (model.rotation is not None) == ("rotation" in METHODS[method])
    final = options["out_curves"].read_text().splitlines()
    row = dict(zip(final[0].split(","), map(float, final[-1].split(",")), strict=True))
    assert row["validation_accuracy"] > 0.4  # chance is 0.125
    tensors, _ = load_tensors(options["id_set"])
    x = (torch.from_numpy(tensors["validation.images"]).float() / 255 - card.mean[0]) / card.std[0]
    predicted = model.eval()(x).argmax(1).numpy()  # as whoever loads the file tests it
    assert (predicted == tensors["validation.labels"]).mean() == pytest.approx(
        row["validation_accuracy"], abs=0.011
    )


@pytest.mark.parametrize("held", [{"name": "simclr"}, {"seed": 1}])
def test_a_start_that_another_model_was_copied_over_is_refused(run, tmp_path, held, capsys):
    start = write_encoder(tmp_path / "scratch-0.safetensors", **held)
    assert call(main, **run("plain", init_model=start)) == 1
    name, seed = held.get("name", "scratch"), held.get("seed", 0)
    said = f"scratch-0.safetensors: holds the model {name!r} of seed {seed}, not 'scratch' of seed 0; write"
    assert said in capsys.readouterr().err


def test_the_length_of_t2fnorm_changes_the_tested_head_alone(run, place):
    files = {}
    for method in ("t2fnorm", "t2fnorm_published"):
        options = run(method, epochs=2)
        assert call(main, **options) == 0
        files[method] = load_model(options["out"])
    (ours, card), (published, _) = files.values()
    theirs = published.backbone.state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in ours.backbone.state_dict().items())
    assert torch.equal(ours.head.bias, published.head.bias)
    images = load_tensors(place / "digits.safetensors")[0]["validation.images"]
    with torch.no_grad():
        z = ours.eval().features((torch.from_numpy(images).float() / 255 - card.mean[0]) / card.std[0])
    length = np.linalg.norm(z.double().numpy(), axis=1).mean()
    torch.testing.assert_close(ours.head.weight * length, published.head.weight, rtol=1e-5, atol=1e-6)


def test_a_section_changes_training_and_views_and_the_rest_is_the_shared_one(place, run):
    options = run("own", batch_size=200)
    assert call(main, **options) == 0
    assert len(options["out_curves"].read_text().splitlines()) == 3  # two epochs, not four
    settings = load_model(options["out"])[1].settings
    assert settings["label_smoothing"] == 0.1 and settings["epochs"] == 2 and settings["recipe"]["pad"] == 0
    own, training, views = read_method(
        f"{place}/params.yaml:methods.all", SECTION, f"{place}/params.yaml:augment.classifier"
    )
    assert own == MethodSettings("t2fnorm", 0.1, 0, 0.5)
    assert training.epochs == SECTION["epochs"] and (views.pad, views.pixmix, views.cutout) == (1, 2, 3)


def test_killed_and_resumed_gives_the_same_bytes(run, tmp_path, monkeypatch):
    whole = run("all", epochs=2, batch_size=200)
    assert call(main, **whole) == 0
    seen = Variant.begin_epoch

    def stop(task, epoch):
        if epoch == 1:
            raise KeyboardInterrupt
        seen(task, epoch)

    monkeypatch.setattr(Variant, "begin_epoch", stop)
    parts = {**whole, "out": tmp_path / "again", "out_curves": tmp_path / "again.csv"}
    assert call(main, **parts) != 0 and not parts["out"].exists()
    monkeypatch.setattr(Variant, "begin_epoch", seen)
    assert call(main, **parts) == 0
    assert parts["out"].read_bytes() == whole["out"].read_bytes()
    assert parts["out_curves"].read_bytes() == whole["out_curves"].read_bytes()


def test_the_test_split_is_never_read(run, place, tmp_path):
    tensors, metadata = load_tensors(place / "digits.safetensors")
    poisoned = {key: np.zeros_like(array) if "test" in key else array for key, array in tensors.items()}
    del metadata["kind"]
    save_tensors(tmp_path / "poisoned", poisoned, kind="set", metadata=metadata)
    results = []
    for id_set in (place / "digits.safetensors", tmp_path / "poisoned"):
        options = run("all", epochs=1, warmup_epochs=0, batch_size=300, id_set=id_set)
        assert call(main, **options) == 0
        results.append(load_tensors(options["out"])[0])
    assert all((results[0][key] == results[1][key]).all() for key in results[0])


def test_pictures_matter_where_they_are_mixed_in_and_are_not_read_elsewhere(run, place, tmp_path):
    nowhere = tmp_path / "nowhere"
    assert call(main, **run("regmixup", epochs=1, warmup_epochs=0, batch_size=300, mixing_set=nowhere)) == 0
    assert call(main, **run("all", epochs=1, warmup_epochs=0, mixing_set=nowhere)) == 1
    pictures, metadata = load_tensors(place / "mixing.safetensors")
    del metadata["kind"]
    dark = {key: np.zeros_like(array) if "images" in key else array for key, array in pictures.items()}
    save_tensors(tmp_path / "dark", dark, kind="set", metadata=metadata)
    heads = []
    for mixing_set in (place / "mixing.safetensors", tmp_path / "dark"):
        options = run("all", epochs=1, warmup_epochs=0, batch_size=300, mixing_set=mixing_set)
        assert call(main, **options) == 0
        heads.append(load_tensors(options["out"])[0]["head.weight"])
    assert np.abs(heads[0] - heads[1]).max() > 1e-4


def test_an_empty_mixing_set_leaves_the_model_out(run, place, tmp_path):
    empty = {"train.images": np.zeros((0, 1, 8, 8), np.uint8), "train.labels": np.zeros(0, np.int64)}
    save_tensors(tmp_path / "empty.safetensors", empty, kind="set", metadata=set_metadata("empty", [], {}))
    options = run("all", mixing_set=tmp_path / "empty.safetensors")
    assert call(main, **options) == 0
    with pytest.raises(LeftOut, match="set empty needs 1 train image, there are 0"):
        read_metadata(options["out"], kind="model")


def test_pictures_of_another_size_are_refused(run, place, tmp_path, capsys):
    pictures, metadata = load_tensors(place / "mixing.safetensors")
    del metadata["kind"]
    save_tensors(tmp_path / "large", dict(pictures), kind="set", metadata={**metadata, "size": 32})
    assert call(main, **run("all", mixing_set=tmp_path / "large")) == 1
    assert "the model was made for 'digits' (8x8 pixels" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"temperature": 0.1}, "methods.x: temperature is of logitnorm and t2fnorm; choose one as `loss`"),
        ({"loss": "logitnorm", "temperature": 0.0}, "methods.x.temperature must be above 0, found 0.0"),
        ({"length": "one"}, "methods.x: length is of t2fnorm; choose it as `loss`, or take it out"),
        (
            {"loss": "logit"},
            "methods.x.loss: must be one of cross_entropy, logitnorm, t2fnorm, found 'logit'",
        ),
        ({"rotation": -1.0}, "methods.x.rotation must be at least 0, found -1.0"),
        ({"pixmix": 4}, "methods.x: unknown key 'pixmix'"),
        ({"augment": {"pixmx": 4}}, "methods.x.augment: unknown key 'pixmx' .did you mean 'pixmix'"),
        ({"augment": 4}, "methods.x.augment: must hold keys and values, found 4"),
        ({"epochs": 0}, "methods.x.epochs must be at least 1, found 0"),
    ],
)
def test_a_wrong_section_is_named(tmp_path, section, message):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump({"methods": {"x": section}, "augment": {"classifier": {"pad": 1}}}))
    with pytest.raises(InputError, match=f"{path}:{message}"):
        read_method(f"{path}:methods.x", SECTION, f"{path}:augment.classifier")
