"""Benchmarks can be started, and the page of what was measured names every one."""

import importlib
import pkgutil

import numpy as np
import pytest
import torch

import benchmarks
from benchmarks import ensemble
from benchmarks.__main__ import BY_NAME
from benchmarks.learning import standardised
from benchmarks.looks import looks
from tools.closure import ROOT

NAMES = sorted({module.name for module in pkgutil.iter_modules(benchmarks.__path__)} - {"__main__"})


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_is_there_and_its_page_names_it(name):
    module = importlib.import_module(f"benchmarks.{name}")
    assert callable(module.main) and f"python -m benchmarks.{name}" in module.__doc__
    assert f"`{name}`" in (ROOT / "benchmarks/README.md").read_text()


def test_those_that_run_by_name_are_there():
    assert set(BY_NAME) <= set(NAMES)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(BY_NAME)))
def test_make_benchmark_runs_nothing_that_ends_without_a_gpu(name):
    """The first to end would take all that follow with it."""
    assert "no CUDA device" not in (ROOT / f"benchmarks/{name}.py").read_text()


def test_six_looks_are_weighted_means_of_shifted_and_mirrored_images():
    """A network that names one pixel of squares 0, 1, 4, … 225: the neighbours by hand."""
    seen = looks(lambda x: x[:, 0, 1, 1:2], torch.arange(16.0).square().reshape(1, 1, 4, 4))
    assert seen["once"].item() == 25 and seen["with the mirror image"].item() == (25 + 36) / 2
    upper, lower = (0 + 1) / 2, (100 + 121) / 2
    assert seen["and shifted"].item() == (25 + 36) / 4 + (upper + lower) / 4


def test_the_gain_is_judged_by_mcnemars_statistic():
    """Of 40 images one names 9 that the other does not, and misses 4 that it does: (9 - 4) / sqrt(13)."""
    mine, control = np.zeros(40, bool), np.zeros(40, bool)
    mine[:9], control[9:13], mine[20:], control[20:] = True, True, True, True
    assert standardised(mine, control) == pytest.approx(5 / 13**0.5)
    assert standardised(control, mine) == pytest.approx(-5 / 13**0.5) and standardised(mine, mine) == 0


def test_the_whole_stage_takes_what_its_parts_take():
    """3 + 1 seconds against 6 + 2, 2 + 1 against 6 + 1, and 2 + 2 against 8 + 4: ratios 2, 2.33 and 3."""
    parts = [[(3.0, 6.0), (2.0, 6.0), (2.0, 8.0)], [(1.0, 2.0), (1.0, 1.0), (2.0, 4.0)]]
    pairs = ensemble.together(parts)
    assert pairs == [(4.0, 8.0), (3.0, 7.0), (4.0, 12.0)]
    words = ensemble.line("stage", pairs).split()
    assert words[0] == "stage" and {"4.00", "8.00", "2.00"} <= set(words)
    assert ensemble.line("stage", pairs).endswith("(2.00 to 3.00), 3 rounds")


def test_without_a_gpu_its_benchmarks_say_so(monkeypatch):
    from click.testing import CliRunner

    from benchmarks import gpu, recipe

    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    with pytest.raises(SystemExit, match="no CUDA device; try it with --small"):
        gpu.main([])
    assert CliRunner().invoke(recipe.main, []).exit_code == 1
