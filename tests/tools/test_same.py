"""Where the results of two machines begin to differ is named."""

import subprocess

import pytest
import yaml

from sslood.core.errors import InputError
from tools.same import compare, differences, elsewhere, other_machine


def stage(deps, outs):
    def listed(paths):
        return [{"path": path, "md5": md5} for path, md5 in paths.items()]

    return {"cmd": "x", "deps": listed(deps), "outs": listed(outs)}


OURS = {
    "set": stage({}, {"set": "s"}),
    "train": stage({"set": "s"}, {"model": "m", "curve": "c"}),
    "score": stage({"model": "m"}, {"scores": "x"}),
}


def test_equal_lock_files_have_no_differences():
    assert differences(OURS, OURS) == []


def test_the_first_stage_that_differs_is_named_and_the_rest_is_counted():
    theirs = {
        **OURS,
        "train": stage({"set": "s"}, {"model": "n", "curve": "c"}),
        "score": stage({"model": "n"}, {"scores": "y"}),
    }
    assert differences(OURS, theirs) == ["train: model", "1 stages follow from these"]


def test_a_difference_that_vanishes_downstream_is_no_follower():
    theirs = {
        **OURS,
        "train": stage({"set": "s"}, {"model": "n", "curve": "d"}),
        "score": stage({"model": "n"}, {"scores": "x"}),
    }
    assert differences(OURS, theirs) == ["train: curve, model"]


def test_stages_of_one_file_only_are_named_and_long_lists_are_cut():
    assert differences(OURS, {}) == [f"{name}: in one lock file only" for name in ("score", "set", "train")]
    many = {f"s{n:02}": stage({}, {"o": "1"}) for n in range(12)}
    others = {name: stage({}, {"o": "2"}) for name in many}
    assert differences(many, others)[-1] == "and 2 more such stages" and len(differences(many, others)) == 11


@pytest.fixture
def checkout(tmp_path):
    def git(*words):
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words], cwd=tmp_path, check=True
        )

    (tmp_path / "metrics").mkdir()
    (tmp_path / "metrics/a.json").write_text("1\n")
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": OURS}))
    git("init", "-q")
    git("add", "-A")
    git("commit", "-qm", "x")
    return tmp_path


def test_a_checkout_with_the_committed_results_passes(checkout):
    (checkout / "elsewhere.txt").write_text("not a result")
    assert compare(checkout, checkout) == "The same dvc.lock and metrics/ as committed: 3 stages."


def test_changed_metrics_and_stages_are_named(checkout):
    (checkout / "metrics/a.json").write_text("2\n")
    (checkout / "metrics/b.json").write_text("2\n")
    theirs = {**OURS, "set": stage({}, {"set": "t"})}
    (checkout / "dvc.lock").write_text(yaml.safe_dump({"stages": theirs}))
    with pytest.raises(InputError) as caught:
        compare(checkout, checkout)
    text = str(caught.value)
    assert "set: set" in text and "M metrics/a.json" in text and "?? metrics/b.json" in text


def test_settings_of_this_machine_stay_here(monkeypatch, tmp_path):
    """A shared scratch folder holds this processor's encoders; SSLOOD_THREADS outdoes OMP_NUM_THREADS."""
    for name in ("SCRATCH", "THREADS", "DEVICE", "DATA_MIRROR"):
        monkeypatch.setenv(f"SSLOOD_{name}", "x")
    names = {name for name in elsewhere(tmp_path) if name.startswith("SSLOOD_")}
    assert names == {"SSLOOD_DATA_MIRROR"} and "HOME" in elsewhere(tmp_path)


def test_the_other_machine_has_one_thread_and_generic_kernels():
    plain = other_machine()
    assert plain["OMP_NUM_THREADS"] == "1" and plain["ATEN_CPU_CAPABILITY"] == "default"
