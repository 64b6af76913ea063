"""The shipped lists against the real class names, and what a wrong list says."""

import re

import numpy as np
import pytest
import yaml

from sslood.auditing.exclusions import FILE, excluded_classes, in_excluded_class
from sslood.core.errors import InputError
from sslood.data.sets.tree import tree

LISTS = yaml.safe_load(FILE.read_text())
ID = {"name": "cifar10", "classes": ["cat", "dog", "ship"], "settings": {"heldout": []}}
OOD = {"name": "pets", "classes": ["tabby", "hamster", "boat"]}


def written(tmp_path, text):
    path = tmp_path / "exclusions.yaml"
    path.write_text(text)
    return path


def test_a_list_names_the_classes_to_leave_out(tmp_path):
    path = written(tmp_path, "cifar10:\n  pets:\n  - {class: tabby, like: cat, why: a cat}\n")
    found = excluded_classes(ID, OOD, path)
    assert found == {"tabby": "cat"}
    labels = np.array([0, 1, 2, 0, -1])
    assert in_excluded_class(labels, OOD, found).tolist() == [True, False, False, True, False]
    assert not in_excluded_class(labels, OOD, {}).any()
    assert excluded_classes({**ID, "name": "mnist"}, OOD, path) == {}
    assert excluded_classes(ID, {"name": "pets", "classes": []}, path) == {}
    assert excluded_classes(ID, {**OOD, "name": "svhn"}, path) == {}


def test_a_held_out_class_is_not_in_distribution(tmp_path):
    path = written(tmp_path, "cifar10:\n  pets:\n  - {class: tabby, like: cat, why: a cat}\n")
    without = {**ID, "classes": ["dog", "ship"], "settings": {"heldout": ["cat"]}}
    assert excluded_classes(without, OOD, path) == {}


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{class: tabbi, like: cat, why: a cat}", "set 'pets' has no class 'tabbi'; correct the entry"),
        ("{class: tabby, like: cow, why: a cat}", "set 'cifar10' has no class 'cow'; correct the entry"),
        ("{class: tabby, like: cat}", "must have the keys class, like, why"),
        ("tabby", "'tabby' must have the keys class, like, why"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path, entry, says):
    path = written(tmp_path, f"cifar10:\n  pets:\n  - {entry}\n")
    with pytest.raises(InputError, match=re.escape(says)) as raised:
        excluded_classes(ID, OOD, path)
    assert "exclusions.yaml, cifar10: pets" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("cifar10:\n  pets:\n  - {class: tabby, like: cat, why: x", "not valid YAML.*line 3"),
        ("cifar10:\n  pets:\n  - {class: tabby, like: cat, why: caf\xe9}", "not valid YAML.*utf-8"),
        ("cifar10:\n  pets: []\ncifar10: {}", "key 'cifar10' stands twice, again in line 3"),
        ("cifar10:\n  pets: []\n  pets: []", "key 'pets' stands twice, again in line 3"),
        ("- cifar10", "yaml: must hold keys, the names of sets, and found .'cifar10'."),
        ("cifar10: [pets]", "yaml, cifar10: must hold keys, the names of sets, and found .'pets'."),
        ("cifar10: {pets: 5}", "yaml, cifar10: pets: must be a list, .*found 5"),
        ("cifar10: {pets: tabby}", "yaml, cifar10: pets: must be a list, .*found 'tabby'"),
        ("cifar10:\n  pets: {class: tabby, like: cat, why: x}", "cifar10: pets: must be a list"),
        ("cifar10:\n  pets:\n  - {class: tabby, like: [cat], why: x}", "set 'cifar10' has no class .'cat'."),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path, text, says):
    path = tmp_path / "exclusions.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match=f"exclusions.*{says}"):
        excluded_classes(ID, OOD, path)


def test_an_empty_file_or_list_excludes_nothing(tmp_path):
    for text in ("", "cifar10:\n", "cifar10: {pets: }\n", "mnist: {pets: 5}\n"):
        assert excluded_classes(ID, OOD, written(tmp_path, text)) == {}


def test_every_shipped_entry_is_whole_and_stands_once():
    for lists in LISTS.values():
        for entries in lists.values():
            assert all(set(entry) == {"class", "like", "why"} and entry["why"] for entry in entries)
            names = [entry["class"] for entry in entries]
            assert len(set(names)) == len(names)


def test_the_shipped_lists_fit_the_real_class_names(mirror):
    """Tiny ImageNet's from its words.txt (with the WordNet id that the reason names), CIFAR-100's from its
    folders."""
    folder = mirror / "tiny-imagenet-200"
    words = dict(line.split("\t") for line in (folder / "words.txt").read_text().splitlines())
    names = {wnid: words[wnid].split(",")[0] for wnid in (folder / "wnids.txt").read_text().split()}
    cifar100 = tree({"x": mirror / "cifar100-test"}, "test", {}).classes
    cifar10 = "airplane automobile bird cat deer dog frog horse ship truck".split()
    stl10 = "airplane bird car cat deer dog horse monkey ship truck".split()
    classes = {"cifar10": cifar10, "cifar100": cifar100, "stl10": stl10, "tiny_imagenet": [*names.values()]}
    parts = ("crop_fixed", "resize_fixed", "resize_aliased", "outliers", "others")
    classes |= {f"tiny_imagenet_{part}": classes["tiny_imagenet"] for part in parts}
    for id_name, lists in LISTS.items():
        for name, entries in lists.items():
            assert {entry["class"] for entry in entries} <= set(classes[name])
            assert {entry["like"] for entry in entries} <= set(classes[id_name])
            for entry in entries if name == "tiny_imagenet" else []:
                assert names[re.search(r"n\d{8}", entry["why"])[0]] == entry["class"]


def own(name, classes):
    return {"name": name, "classes": classes, "source": {"folder": name}}


def test_an_own_folder_that_shares_a_class_name_is_reported():
    """No list of ours can know own pictures: a class of the same name counts as the same class."""
    mine, cifar10 = own("mine", ["cat", "sea_lion", "eel"]), {"name": "cifar10", "classes": ["cat", "dog"]}
    others = own("others", ["Cat", "Sea Lion", "eels"])
    assert excluded_classes(mine, others) == {"Cat": "cat", "Sea Lion": "sea_lion"}
    assert excluded_classes(mine, mine) == {}, "the ID set's own test images are not excluded"
    assert excluded_classes(mine, cifar10) == {"cat": "cat"} == excluded_classes(cifar10, own("x", ["cat"]))
    assert (
        excluded_classes(cifar10, {"name": "digits", "classes": ["cat"]}) == {}
    )  # published: the lists decide
