"""The whole pipeline in one process, on small pictures: every command that dvc.yaml makes of some params."""

import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from dvc.repo import Repo
from PIL import Image
from ruamel.yaml import YAML

from tools.closure import ROOT

RUNS: dict[str, Any] = {  # one of each kind of stage
    "seeds": [0],
    "objectives": ["scratch", "simclr"],
    "inits": ["scratch"],
    "energy_modes": ["head"],
    "leaveout_backbones": ["wideresnet"],
    "network_models": ["classifier_scratch"],
    "deep_models": ["classifier_scratch"],
}
TINY: dict[str, Any] = {
    "id": "mine",
    "data": {"size": 8, "count": 12, "validation": 0.2},
    "classes": {"heldout": []},
    "runs": RUNS,
    "evaluate": {"models": ["simclr", "classifier_scratch", "energy_head_classifier_scratch"]},
    "backbones": {"resnet": {"depth": 8, "width": 4}},
    "pretrain": {"epochs": 1, "precision": "float32"},
    "train": {"epochs": 1, "precision": "float32"},
    "energy": {"epochs": 1, "precision": "float32"},
    "leaveout": {"epochs": 1, "precision": "float32"},
    "network": {"detectors": ["odin", "gram"], "precision": "float32"},
    "ensemble": {"precision": "float32"},
    "embed": {"precision": "float32"},
    "probe": {"knn": {"k": [5, 20]}},
}
CORRUPTIONS = {"role": "tuning", "source": "folder", "derive": "corruptions"}


def pictures(folder: Path, counts: Mapping[str, int], seed: int = 0) -> Path:
    """Write PNG pictures of 10 x 8 pixels: {class folder, "" for none: count}; each class has its pattern."""
    random = np.random.default_rng(seed)
    for place, (name, count) in enumerate(counts.items()):
        pattern = random.integers(0, 256, (10, 8)) * (1 + place % 3) / 3
        for number in range(count):
            grey = np.clip(pattern + random.normal(0, 40, pattern.shape), 0, 255).astype(np.uint8)
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(grey).save(folder / name / f"{number}.png")
    return folder


def own(role: str, folder: Path, **keys: Any) -> dict[str, Any]:
    """Return the entry of a set of own pictures."""
    return {"role": role, "source": "folder", "folder": str(folder), **keys}


def _put(params: Any, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(params.get(key), Mapping) and key != "sets":
            _put(params[key], value)
        else:
            params[key] = value


def commands(folder: Path, *changes: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Write dvc.yaml and the quickstart's params with TINY and `changes`; return [(stage, command)]."""
    yaml = YAML(typ="safe")
    params = yaml.load(ROOT / "params.yaml")
    for part in (TINY, *changes):
        _put(params, part)
    (folder / ".dvc").mkdir(parents=True, exist_ok=True)
    config = (ROOT / ".dvc/config").read_text().replace("[core]", "[core]\n    no_scm = true")
    (folder / ".dvc/config").write_text(config)
    yaml.dump(params, folder / "params.yaml")
    (folder / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    order = [*yaml.load(ROOT / "dvc.yaml")["stages"]]
    with Repo(str(folder)) as repo:
        stages = sorted(repo.index.stages, key=lambda stage: order.index(stage.name.split("@")[0]))
        return [(stage.name, stage.cmd.replace("$DVC_STAGE", stage.name)) for stage in stages]


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def run(folder: Path, command: str) -> tuple[int, str]:
    """Run a stage's command in this process; return (exit status, its output)."""
    words = shlex.split(command)
    with _inside(folder):
        found = CliRunner().invoke(import_module(words[2]).main, words[3:])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        return 99, f"{found.output}{type(found.exception).__name__}: {found.exception}"
    return found.exit_code, found.output


def walk(folder: Path, *changes: Mapping[str, Any]) -> dict[str, tuple[int, str]]:
    """Run every stage in its order; return {stage: (exit status, output)}."""
    return {name: run(folder, command) for name, command in commands(folder, *changes)}
