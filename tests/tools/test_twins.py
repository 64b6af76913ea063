"""A twin, NAME-small, has what its large profile has: the same models, detectors and rows, so the same tables."""

from pathlib import Path

import pytest
import yaml

PROFILES = Path(__file__).parents[2] / "profiles"
SYSTEMS = ["ssl-ood", "ssd", "eloc", "stochastic-imagenet"]


def read(name):
    return yaml.safe_load((PROFILES / f"{name}.yaml").read_text())


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_twin_runs_what_its_profile_runs(name):
    large, small = read(name), read(f"{name}-small")
    for section in ("runs", "evaluate", "ssd_rows", "ssdk_rows", "summarize"):
        assert small.get(section) == large.get(section), section
    for section in ("objectives", "models", "outliers"):
        assert list(small.get(section, {})) == list(large.get(section, {})), section
    for section in ("posthoc", "network"):
        assert small.get(section, {}).get("detectors") == large.get(section, {}).get("detectors"), section
    assert small["leaveout"]["folds"] == large["leaveout"]["folds"] if "leaveout" in large else True


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_twin_needs_no_download(name):
    sets = read(f"{name}-small").get("sets") or read("quickstart")["sets"]
    here = {"digits", "letters", "photos", "blobs", "gaussian", "uniform", "rademacher", "folder"}
    assert {entry["source"] for entry in sets.values()} <= here
    for entry in read(f"{name}-small").get("models", {}).values():
        assert (PROFILES.parent / entry["weights"]).is_file()
