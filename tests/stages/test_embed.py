import numpy as np
import pytest
import torch

from sslood.core.batches import batches
from sslood.core.files import load_tensors, save_tensors
from sslood.data.images.augment import AugmentSettings
from sslood.data.sets.roles.roles import record_role
from sslood.nets.inference.embed import copies_of, shot_pool
from sslood.nets.inference.extract import extract
from sslood.nets.networks.build import build_backbone, seeded
from sslood.nets.networks.files import load_model, save_model
from sslood.nets.networks.heads import build_head, build_projector
from sslood.ood.kit.outputs import Head
from stages.embed import main
from tests.kit.small import call, digit_images, model_card, write_params, write_sets


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("SSLOOD_THREADS", "1")
    write_sets(tmp_path)
    with seeded(0):
        modules = {
            "backbone": build_backbone("resnet-8-4", channels=1),
            "head": build_head(16, 8),
            "projector": build_projector(16, [6]),
        }
    metadata = model_card(name="both", head_classes=list(range(8)), projector=[6])
    save_model(tmp_path / "both-0.safetensors", modules, metadata)
    params = write_params(tmp_path / "params.yaml")
    return {
        "model": tmp_path / "both-0.safetensors",
        "sets": f"{params}:sets",
        "sets_dir": tmp_path,
        "id": "digits",
        "recipe": f"{params}:augment.shots",
        "batch_size": 64,
        "precision": "float32",
        "shots": 5,
        "copies": 3,
        "seed": 0,
        "out": tmp_path / "embeddings" / "both.safetensors",
    }


def test_a_set_to_transfer_to_is_embedded_with_all_its_splits(run, tmp_path):
    params = tmp_path / "transfer.yaml"
    params.write_text("sets: {digits: {role: id}, more: {role: transfer}}")
    (tmp_path / "more.safetensors").write_bytes((tmp_path / "digits.safetensors").read_bytes())
    assert call(main, **{**run, "sets": f"{params}:sets"}) == 0
    tensors, metadata = load_tensors(run["out"], kind="embeddings")
    for split in ("train", "validation", "test"):
        names = [f"{name}.{split}.features" for name in ("digits", "more")]
        assert np.array_equal(*(tensors[name] for name in names))
    assert metadata["sets"]["more"]["role"] == "transfer" and "more.shots.index" not in tensors


def test_every_set_is_embedded_as_its_role_asks(run, capsys):
    assert call(main, **run) == 0
    assert "of 4 sets" in capsys.readouterr().out
    tensors, metadata = load_tensors(run["out"], kind="embeddings")
    images, labels = digit_images()
    heldout = int((labels >= 8).sum())
    sizes = {"digits.train": 600, "digits.validation": 100, "digits.test": 200, "heldout.test": heldout}
    sizes |= {"noise.test": 50, "corruptions.validation": 100}
    widths = {"features": (16,), "logits": (8,), "projections": (6,), "labels": ()}
    expected = {f"{split}.{key}": (n, *width) for split, n in sizes.items() for key, width in widths.items()}
    expected |= {"heldout.shots.features": (10, 3, 16), "heldout.shots.index": (10,)}
    expected |= {"noise.shots.features": (5, 3, 16), "noise.shots.index": (5,)}
    expected |= {"head.weight": (8, 16), "head.bias": (8,)}
    assert {name: array.shape for name, array in tensors.items()} == expected
    assert all(array.dtype in (np.float32, np.int64) for array in tensors.values())
    assert metadata["model"] == "both" and metadata["seed"] == 0 and metadata["id"] == "digits"
    assert metadata["sets"]["heldout"] == {"splits": {"test": heldout}, **record_role("near")}
    assert metadata["sets"]["corruptions"] == {"splits": {"validation": 100}, **record_role("tuning")}
    assert metadata["model_metadata"]["arch"] == "resnet-8-4" and len(metadata["classes"]) == 8


def test_features_are_those_of_the_clean_images(run):
    assert call(main, **run) == 0
    tensors, _ = load_tensors(run["out"])
    images = load_tensors(run["sets_dir"] / "heldout.safetensors")[0]["test.images"]
    model, meta = load_model(run["model"])
    expected = extract(model, batches(images, 500), mean=meta.mean, std=meta.std)
    for key, values in expected.items():
        np.testing.assert_allclose(tensors[f"heldout.test.{key}"], values, atol=1e-5)
    logits = values_of_head(model, tensors["heldout.test.features"])
    again = Head(tensors["head.weight"], tensors["head.bias"]).logits(tensors["heldout.test.features"])
    np.testing.assert_allclose(again, logits, atol=1e-5)
    np.testing.assert_allclose(tensors["heldout.test.logits"], logits, atol=1e-5)


def values_of_head(model, features):
    return features @ model.head.weight.detach().numpy().T + model.head.bias.detach().numpy()


def test_float64_is_stored_as_float32_and_near_the_rest(run):
    assert call(main, **run) == 0
    single, _ = load_tensors(run["out"])
    out = run["out"].with_name("double.safetensors")
    assert call(main, **{**run, "precision": "float64", "out": out}) == 0
    double, _ = load_tensors(out)
    images = load_tensors(run["sets_dir"] / "heldout.safetensors")[0]["test.images"]
    model, card = load_model(run["model"])
    x = (torch.from_numpy(images).double() / 255 - card.mean[0]) / card.std[0]
    with torch.no_grad():
        expected = model.double().features(x).numpy()
    features = double["heldout.test.features"]
    grid = 2.0 ** (np.ceil(np.log2(expected.max())) - 18)
    np.testing.assert_allclose(features, expected, rtol=0, atol=grid / 2)
    assert (features / grid == np.rint(features / grid)).all()
    for key, values in single.items():
        assert double[key].dtype == values.dtype
        np.testing.assert_allclose(double[key], values, atol=1e-5)
    assert call(main, **{**run, "precision": "half", "out": out}) == 2


def test_without_augmentation_every_copy_is_the_image(run):
    params = run["sets_dir"] / "params.yaml"
    params.write_text(params.read_text().replace("shots: {pad: 1}", "shots: {}"))
    assert call(main, **run) == 0
    tensors, _ = load_tensors(run["out"])
    for name in ("heldout", "noise"):
        clean = tensors[f"{name}.test.features"][tensors[f"{name}.shots.index"]]
        np.testing.assert_allclose(tensors[f"{name}.shots.features"], clean[:, None].repeat(3, 1), atol=1e-5)


def test_two_runs_give_the_same_bytes_and_seeds_differ_in_the_shots_alone(run):
    assert call(main, **run) == 0
    first, tensors = run["out"].read_bytes(), load_tensors(run["out"])[0]
    assert call(main, **run) == 0
    assert run["out"].read_bytes() == first
    other_file = run["out"].with_name("other.safetensors")
    assert call(main, **{**run, "seed": 1, "out": other_file}) == 0
    other = load_tensors(other_file)[0]
    changed = {name for name in tensors if not np.array_equal(tensors[name], other[name])}
    assert changed == {name for name in tensors if ".shots." in name}


def test_copies_differ_from_each_other_and_follow_their_seed():
    images = digit_images()[0][:6]

    def copies(seed):
        return np.concatenate([batch.numpy() for batch in copies_of(images, AugmentSettings(pad=2), 4, seed)])

    assert copies(0).shape == (6, 1, 8, 8) and copies(0).max() <= 1
    assert np.array_equal(copies(0), copies(0)) and not np.array_equal(copies(0), copies(1))


def test_pool_takes_shots_of_each_class_or_in_all():
    labels = np.array([0] * 10 + [1] * 3 + [2] * 10)
    index = shot_pool(labels, 5, 0, "a")
    assert np.bincount(labels[index]).tolist() == [5, 3, 5] and (np.diff(index) > 0).all()
    assert len(shot_pool(np.full(20, -1), 5, 0, "a")) == 5
    assert not np.array_equal(index, shot_pool(labels, 5, 0, "b"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"copies": 0}, "embed.copies must be at least 1, found 0"),
        ({"id": "cifar10"}, "cifar10.safetensors: no such file"),
        ({"id": "heldout"}, "run the stage `pretrain` again"),
        ({"model": "missing.safetensors"}, "missing.safetensors: no such file"),
    ],
)
def test_wrong_input_ends_with_one_sentence(run, change, message, capsys):
    assert call(main, **{**run, **change}) == 1
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert not run["out"].exists()


@pytest.mark.parametrize(("name", "seed"), [("simclr", 0), ("both", 1)])
def test_a_file_that_another_model_was_copied_over_is_refused(run, name, seed, capsys):
    assert call(main, **run, name="both") == 0
    run["out"].unlink()
    assert call(main, **{**run, "name": name, "seed": seed}) == 1
    said = f"both-0.safetensors: holds the model 'both' of seed 0, not {name!r} of seed {seed}; write"
    assert said in capsys.readouterr().err and not run["out"].exists()


def test_unknown_role_and_sets_of_another_size_are_named(run, capsys):
    params = run["sets_dir"] / "params.yaml"
    text = params.read_text()
    params.write_text(text.replace("role: far", "role: distant"))
    assert call(main, **run) == 1
    assert "sets.noise: unknown role 'distant'; known: id, near, far" in capsys.readouterr().err
    params.write_text(text)
    images = {"test.images": np.zeros((2, 1, 16, 16), np.uint8), "test.labels": np.zeros(2, np.int64)}
    metadata = {"name": "noise", "size": 16, "channels": 1, "classes": []}
    save_tensors(run["sets_dir"] / "noise.safetensors", images, kind="set", metadata=metadata)
    assert call(main, **run) == 1
    assert "'noise' (16x16 pixels" in capsys.readouterr().err


def test_a_diverged_model_is_named_with_set_and_count(run, capsys):
    model, card = load_model(run["model"])
    torch.nn.init.constant_(model.backbone.conv1.weight, 1e38)  # finite, but its products are not
    modules = {"backbone": model.backbone, "head": model.head, "projector": model.projector}
    save_model(run["model"], modules, card)
    assert call(main, **run) == 1
    assert "model 'both', set 'digits (train)': 600 of 600 images have features" in capsys.readouterr().err
