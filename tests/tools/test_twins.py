"""A twin, NAME-small, has its large profile's models, detectors and rows, and so the same tables."""

from pathlib import Path

import pytest
import yaml

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


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_twin_needs_no_download(name):
    sets = read(f"{name}-small").get("sets") or read("quickstart")["sets"]
    here = {"digits", "letters", "photos", "blobs", "gaussian", "uniform", "rademacher", "folder"}
    assert {entry["source"] for entry in sets.values()} <= here
    for entry in read(f"{name}-small").get("models", {}).values():
        assert (PROFILES.parent / entry["weights"]).is_file()
