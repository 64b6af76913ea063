"""A study of a toy graph, whose stages are shell commands that write down that they ran."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from studies.accept import accept_made, made_before
from studies.parts import Call, Outcome
from studies.plan import read_study
from studies.runner import Store
from studies.workspace import copy_code

ROWS = """stage,model,detector,seed,set,role,auroc,fpr95_id,auroc_low,auroc_high,n_id,n_ood
posthoc,m,knn,0,blobs,far,0.9,0.3,0.88,0.92,50,60
"""
GRAPH = {
    "download": {
        "foreach": "${sets}",
        "do": {
            "cmd": "echo download ${key} >> $RAN; test ${key} != lost || "
            "{ echo 'Error: set lost cannot be obtained'; exit 1; }; "
            "echo ${key} > data/sets/${key}.safetensors",
            "params": ["sets.${key}"],
            "outs": ["data/sets/${key}.safetensors"],
        },
    },
    "train": {
        "matrix": {"seed": "${runs.seeds}"},
        "cmd": "echo train ${item.seed} >> $RAN; ${train.command} || exit 1; "
        "echo ${train.epochs} > data/models/m-${item.seed}.safetensors; "
        "echo 1 > data/curves/${item.seed}.csv",
        "deps": ["sslood", "data/sets/digits.safetensors"],
        "params": ["train"],
        "outs": ["data/models/m-${item.seed}.safetensors", "data/curves/${item.seed}.csv"],
    },
    "evaluate": {
        "cmd": "printf . >> $RAN.evaluated; cat data/models/* > data/results.txt",
        "deps": ["data/models"],
        "outs": ["data/results.txt"],
    },
    "sweep": {
        "matrix": {"sweep": "${runs.sweeps}"},
        "cmd": "mkdir -p metrics/sweeps/${item.sweep} && cd metrics/sweeps/${item.sweep} && "
        "touch scores.csv && echo ${item.sweep} > table.md && echo '<svg/>' > beta.svg",
        "params": ["runs.sweeps"],
        "outs": ["metrics/sweeps/${item.sweep}"],
    },
    "summarize": {
        "cmd": "cp $ROWS metrics/results.csv; rm -f metrics/published.md; "
        "test ${train.epochs} != 2 || echo ${train.epochs} > metrics/published.md",
        "deps": ["data/results.txt", "data/sets"],
        "params": ["sets", "train"],
        "outs": ["metrics/results.csv"],
    },
}
PARAMS = {
    "id": "digits",
    "sets": {
        "digits": {"role": "id", "source": "digits"},
        "blobs": {"role": "far", "source": "blobs"},
    },
    "runs": {"seeds": [0], "sweeps": []},
    "train": {"epochs": 1, "command": "true"},
}
LOST = {"sets.lost": {"role": "far", "source": "uniform"}}


class Toy:
    """A root with code and a profile, and the study that is run from it."""

    def __init__(self, root: Path):
        self.root, self.said = root, list[str]()
        for name in ("sslood", "stages", "architectures", "profiles"):
            (root / name).mkdir(parents=True)
        (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": GRAPH}, sort_keys=False))
        (root / "rows.csv").write_text(ROWS)
        (root / "profiles/quickstart.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))

    def call(
        self,
        parts: list[dict],
        budget: float = 60.0,
        least: float = 1.0,
        commands: str | None = None,
        accept: Sequence[str] = (),
        revision: str = "r1",
        is_tiny: bool = False,
    ) -> list[Outcome]:
        """Run the parts in one call; what ran is in `ran`."""
        content = {"title": "Toy", "least": least, "parts": parts}
        (self.root / "toy.yaml").write_text(yaml.safe_dump(content))
        self.study = replace(read_study(str(self.root / "toy.yaml")), is_tiny=is_tiny)
        folder = self.root / "work"
        made = made_before(folder, [part.name for part in self.study.parts], accept)
        copy_code(folder, self.root)
        self.store = Store(folder, {"revision": revision, "hardware": "h1"}, commands)
        call = Call(self.study, folder, 1, self.store, budget, self.said.append)
        if accept:
            accept_made(call, accept, made)
        self.before = self._lines()
        return [call.run(part) for part in self.study.parts]

    def _lines(self) -> list[str]:
        path = self.root / "ran"
        return path.read_text().splitlines() if path.is_file() else []

    @property
    def evaluated(self) -> int:
        """How often models were evaluated in all calls."""
        return len((self.root / "ran.evaluated").read_text())

    @property
    def ran(self) -> list[str]:
        """What ran in the last call."""
        return self._lines()[len(self.before) :]
