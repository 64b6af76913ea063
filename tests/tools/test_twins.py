"""A twin, NAME-small, has its large profile's models, detectors and rows, and so the same tables."""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from sslood.sweeps.grids import read_sweep
from studies.plan import read_study

PROFILES = Path(__file__).parents[2] / "profiles"
SYSTEMS = ["ssl-ood", "ssd", "eloc", "stochastic-imagenet"]


def read(name):
    return yaml.safe_load((PROFILES / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_twin_runs_what_its_profile_runs(name):
    large, small = ({**read("quickstart"), **read(profile)} for profile in (name, f"{name}-small"))
    for section in ("runs", "evaluate", "ssd_rows", "ssdk_rows", "summarize"):
        assert small[section] == large[section], section
    for section in ("objectives", "models", "outliers"):
        assert list(small[section]) == list(large[section]), section
    for section, key in (("posthoc", "detectors"), ("network", "detectors"), ("leaveout", "folds")):
        assert small[section].get(key) == large[section].get(key), section


def test_the_twin_of_the_ablation_sweeps_the_same_factors():
    large, small = read("stochastic-ablation"), read("stochastic-ablation-small")
    seeds = ("seeds", "stochastic_seeds")
    runs = [{key: v for key, v in found["runs"].items() if key not in seeds} for found in (large, small)]
    assert runs[0] == runs[1] and large["evaluate"] == small["evaluate"]
    assert list(large["objectives"]) == list(small["objectives"])
    sweeps = [found["sweeps"]["stochastic"] for found in (large, small)]
    assert sweeps[0]["detectors"] == sweeps[1]["detectors"]
    crossed = [[(grid["objective"], list(grid)) for grid in sweep["grids"]] for sweep in sweeps]
    assert crossed[0] == crossed[1]
    # what the source ran: 54 runs for each of h and z of Barlow Twins, 36 for each of VICReg's
    cells = read_sweep(sweeps[0], large["runs"]["seeds"], "").cells
    counts = Counter(cell["objective"] for cell in cells if "beta" in cell)
    assert sorted(counts.values()) == [36, 36, 54, 54]


@pytest.mark.parametrize("name", [*SYSTEMS, "stochastic-ablation"])
def test_a_twin_needs_no_download(name):
    sets = read(f"{name}-small").get("sets") or read("quickstart")["sets"]
    here = {"digits", "letters", "photos", "blobs", "gaussian", "uniform", "rademacher", "folder"}
    assert {entry["source"] for entry in sets.values()} <= here
    for entry in read(f"{name}-small").get("models", {}).values():
        assert (PROFILES.parent / entry["weights"]).is_file()


def test_one_study_runs_the_twins_without_a_download():
    """Of stochastic-imagenet-small a command draws the pictures, into the folder that the profile names."""
    parts = {part.name: part for part in read_study("systems-small").parts}
    assert sorted(parts) == sorted(
        f"{name}-small" for name in ["ssl-ood", "ssd", "eloc", "stochastic-ablation", "stochastic-imagenet"]
    )
    folders = {entry.get("folder") for entry in read("stochastic-imagenet-small")["sets"].values()}
    assert list(parts["stochastic-imagenet-small"].prepare) == [*folders - {None}]
    assert all(part.profile == name for name, part in parts.items())
    kept = {key for part in parts.values() for key in part.settings}
    assert kept == {"posthoc.detectors", "runs.inits", "runs.network_models", "evaluate.models"}
    assert parts["stochastic-ablation-small"].goals == ("summarize", "sweep")


def test_heads_on_vicreg_are_parts_of_studies():
    """The profile with them would have more than a hundred stages."""
    small, large = read_study("systems-small").parts[3], read_study("stochastic").parts[-1]
    heads = {"classifier_vicreg", "classifier_vicreg_h", "classifier_vicreg_z"}
    for part in (small, large):
        assert heads <= set(part.settings["runs.network_models"]) & set(part.settings["evaluate.models"])
        assert {f"classifier_{name}" for name in part.settings["runs.inits"]} == set(
            part.settings["runs.network_models"]
        )
    assert set(small.settings["evaluate.models"]) - heads == set(
        read("stochastic-ablation-small")["evaluate"]["models"]
    )
