"""Sets that are too small, or lack labels: through `download`, the evaluations, and all stages."""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from sslood.core.files import load_tensors, save_tensors
from sslood.data.sets.roles.roles import record_role
from stages import download, posthoc, probe, ssd, ssdk
from tests.kit.registries import DETECTORS
from tests.kit.small import options, setting_flags
from tests.kit.walk import CORRUPTIONS, commands, own, pictures, run
from tests.trials.kit import Trial, Verdict, call, taken

TITLE = "sets too small for a detector or a stage, without labels or of one class"
DATA = {"size": 8, "channels": 1, "validation": 0.2, "count": 12, "limit": 0, "seed": 0, "test": 0.3}
# class -> pictures ("" = flat) of sets that no publisher makes, and people have
ODD_ID = [{"": 12}, {"a": 12}, {"a": 10, "b": 1}, {"a": 9, "b": 2, "c": 9}, {"a": 6, "b": 6, "c": 1, "d": 1}]
ODD_OOD = [{"": 1}, {"": 4}, {"": 6}, {"a": 9, "b": 3}, {"a": 1, "b": 1}, {"a": 5}, {"a": 5, "b": 5}]


def trials(folder: Path) -> Iterator[Trial]:
    yield from _downloads(folder / "download")
    yield from _evaluations(folder / "evaluate")
    yield from _walks(folder / "walk")


def _downloads(folder: Path) -> Iterator[Trial]:
    random = np.random.default_rng(0)
    plan: list[tuple[str, Mapping[str, int]]] = [("id", counts) for counts in ODD_ID]
    plan += [(role, counts) for role in ("near", "tuning", "auxiliary") for counts in ODD_OOD]
    for role in ("id", "far", "tuning", "transfer"):
        for _ in range(15):
            counts = random.integers(1, 9, random.integers(1, 6))
            counts[0] += 8 * (role in ("id", "transfer"))
            plan.append((role, {chr(97 + at): int(count) for at, count in enumerate(counts)}))
    for number, (role, counts) in enumerate(plan):
        yield Trial(f"download {role} {counts}", partial(_download, folder / str(number), role, counts))


def _download(folder: Path, role: str, counts: Mapping[str, int]) -> Verdict:
    sets = {"x": own(role, pictures(folder / "x", counts)), "mine": {"role": "id", "source": "digits"}}
    name = "mine" if role == "id" else "x"
    sets["mine"] = sets["x"] if role == "id" else sets["mine"]
    (folder / "params.yaml").write_text(json.dumps({"sets": sets}))
    items = {"set": name, "item": f"{folder}/params.yaml:sets.{name}", "out": folder / "out.safetensors"}
    items |= {"id": "mine", "id_item": f"{folder}/params.yaml:sets.mine", **DATA}
    outcome = call(download.main, *options(**items))

    def check() -> str | None:
        tensors, metadata = load_tensors(folder / "out.safetensors", kind="set")
        labels = {key.split(".")[0]: array for key, array in tensors.items() if key.endswith("labels")}
        if sum(map(len, labels.values())) != sum(counts.values()):
            return f"{metadata['splits']} of {counts}"
        if role in ("id", "transfer") and set(labels["train"].tolist()) != set(
            range(len(metadata["classes"]))
        ):
            return None if "" in counts else "a class without a training picture"
        return _unsaid(role, labels, outcome.output)

    return taken(outcome, check)


def _unsaid(role: str, labels: Mapping[str, np.ndarray], said: str) -> str | None:
    """Return what should be said of a set and is not: by the words of the names that cannot work on it."""
    expected = set()
    if role in ("near", "far"):
        counts = np.unique(labels["test"], return_counts=True)[1]
        expected |= {"ssdk"} if counts.min() < 5 or counts.sum() <= 5 * len(counts) else set()
        expected |= {"interval"} if counts.sum() < 2 else set()
    if role in ("id", "transfer"):
        known, counts = np.unique(labels["train"], return_counts=True)
        expected |= {"probe"} if len(known) < 2 else set()
    if role == "id":
        expected |= {"gmm"} if counts.min() < 2 or known.min() < 0 else set()
        expected |= {"train", "rmds"} if len(known) < 2 else set()
    missing = [name for name in sorted(expected) if name not in said.partition("\n")[2]]
    return f"does not say {', '.join(missing)}" if missing else None


def _embeddings(path: Path, train: list[int], tests: Mapping[str, list[int]], labelled: bool) -> None:
    """Write the outputs of a classifier for an ID set with these images per class, and for OOD sets."""
    random, width, tensors = np.random.default_rng(len(train)), 6, {}
    splits = {"mine.train": train, "mine.validation": [2] * len(train), "mine.test": [4] * len(train)}
    splits |= {f"{name}.test": counts for name, counts in tests.items()} | {"tuned.validation": [9]}
    for place, counts in splits.items():
        labels = np.repeat(np.arange(len(counts)), counts)
        rows = random.normal(size=(len(labels), width)) + 3 * np.eye(width)[labels % width]
        rows += 2.0 * (not place.startswith("mine"))
        known = (labelled or not place.startswith("mine")) and counts != [1]
        tensors[f"{place}.features"] = rows.astype(np.float32)
        tensors[f"{place}.logits"] = rows[:, : len(train)].astype(np.float32)
        tensors[f"{place}.labels"] = labels if known else np.full(len(labels), -1)
        if place.split(".")[0] in tests:
            name, pool = place.split(".")[0], np.arange(len(labels))
            tensors[f"{name}.shots.features"] = np.repeat(rows[:, None], 3, 1).astype(np.float32)
            tensors[f"{name}.shots.features"] += random.normal(0, 0.1, (len(pool), 3, width)).astype(
                np.float32
            )
            tensors[f"{name}.shots.index"] = pool
    tensors |= {"head.weight": np.eye(width, dtype=np.float32)[: len(train)]}
    tensors |= {"head.bias": np.zeros(len(train), np.float32)}
    roles = {"mine": "id", **dict.fromkeys(tests, "far"), "tuned": "tuning"}
    metadata = {"model": "m", "seed": 0, "id": "mine", "classes": list(map(str, range(len(train))))}
    metadata |= {"model_metadata": {"head_classes": list(range(len(train)))}}
    metadata |= {"sets": {name: {"splits": {}, **record_role(role)} for name, role in roles.items()}}
    save_tensors(path, tensors, kind="embeddings", metadata=metadata)


def _evaluations(folder: Path) -> Iterator[Trial]:
    random = np.random.default_rng(1)
    plan: list[tuple[list[int], bool, dict[str, list[int]]]] = [
        ([20, 20, 1], True, {"a": [9]}), ([20, 20], False, {"a": [9]}), ([40], True, {"a": [9]}),
        ([20, 20], True, {"a": [1], "b": [6], "c": [9, 3]}),
    ]  # fmt: skip
    for _ in range(11):
        train = random.integers(1, 30, random.integers(2, 5)).tolist()
        tests = {name: random.integers(1, 12, random.integers(1, 4)).tolist() for name in "ab"}
        plan.append((train, bool(random.random() < 0.8), tests))
    for number, (train, labelled, tests) in enumerate(plan):
        for stage in (posthoc, ssd, ssdk, probe):
            name = stage.__name__.removeprefix("stages.")
            what = f"{name} train {train} {'' if labelled else 'unlabelled '}tests {list(tests.values())}"
            place = folder / f"{number}-{name}"
            yield Trial(what, partial(_evaluate, stage, place, train, labelled, tests))


def _evaluate(
    stage: Any, folder: Path, train: list[int], labelled: bool, tests: Mapping[str, list[int]]
) -> Verdict:
    _embeddings(folder / "m.safetensors", train, tests, labelled)
    words = options(embeddings=folder, models="m", seed=0)
    outs = options(out_results=folder / "r.json", out_scores=folder / "s.safetensors")
    if stage is probe:
        settings = {"knn.k": [5, 20], "knn.temperature": 0.1, "linear.l2": 0.01, "linear.shares": 0.1}
        outs = options(out=folder / "r.json", **settings)
    elif stage is posthoc:
        words += options(detectors=list(DETECTORS))
        for name, kind in DETECTORS.items():
            words += setting_flags(kind.Settings(), name)
    else:
        words += setting_flags(stage.SSDSettings() if stage is ssd else stage.SSDkSettings())
    outcome = call(stage.main, *words, *outs)

    def check() -> str | None:
        found = json.loads((folder / "r.json").read_text())
        rows = {name for name, sets in found["models"].get("m", {}).items() if sets}
        out = {row["detector"].removeprefix("accuracy ") for row in found.get("left_out", [])}
        wanted = {posthoc: set(DETECTORS), ssd: {"ssd"}, ssdk: {"ssdk"}}.get(
            stage, {"knn", "linear", "linear_0.1", "head"}
        )
        if missing := wanted - rows - out:
            return f"neither a row nor a reason: {', '.join(sorted(missing))}"
        if stage is ssdk:
            rows = set(found["models"].get("m", {}).get("ssdk", {}))
            few = {
                name for name, counts in tests.items() if min(counts) < 5 or counts in ([5], [5, 5], [5] * 3)
            }
            return (
                None if rows == set(tests) - few else f"rows of {sorted(rows)}, too small are {sorted(few)}"
            )
        able = rows - out
        one = {"msp"} if len(train) == 1 else set()  # of a single class the probability is always 1
        needless = {"msp", "energy", "residual", "ssd"} & wanted - able - one
        return f"left out without need: {', '.join(sorted(needless))}" if needless else None

    return taken(outcome, check)


def _walks(folder: Path) -> Iterator[Trial]:
    plain, far = {"a": 15, "b": 15, "c": 15}, {"x": 7, "y": 7}
    cases: dict[str, tuple[Mapping[str, int], Mapping[str, int], bool]] = {
        "OOD set of 1": (plain, {"": 1}, True),
        "OOD set of 4": (plain, {"": 4}, True),
        "OOD set of 6": (plain, {"": 6}, True),
        "OOD class below 5": (plain, {"x": 9, "y": 3}, True),
        "ID class of 1": ({**plain, "d": 1}, far, True),
        "ID class of 2": ({**plain, "d": 2}, far, True),
        "30 ID pictures": ({"a": 10, "b": 10, "c": 10}, far, True),
        "no labels": ({"": 40}, far, True),
        "one class": ({"a": 40}, far, True),
        "two classes": ({"a": 20, "b": 20}, far, True),
        "no tuning set": (plain, far, False),
    }
    for number, (name, case) in enumerate(cases.items()):
        yield Trial(f"all stages, {name}", partial(_walk, folder / str(number), *case))


def _walk(folder: Path, inside: Mapping[str, int], outside: Mapping[str, int], tuned: bool) -> Verdict:
    """Run the pipeline a stage at a time, each in a process of its own; the first that goes wrong decides."""
    sets = {
        "mine": own("id", pictures(folder / "id", inside)),
        "far": own("far", pictures(folder / "far", outside, 5)),
    }
    sets["near"] = own("near", pictures(folder / "near", {"p": 8, "q": 8}, 9))
    if tuned:
        sets["corruptions"] = {**CORRUPTIONS, "folder": str(folder / "id")}
    changes = {"runs": {"energy_inits": []}, "evaluate": {"models": ["simclr", "classifier_scratch"]}}
    plan = commands(folder, {"sets": sets}, {} if tuned else changes)
    for _, command in plan:  # here, so that no child spends its time on imports
        import_module(command.split()[2])
    for stage, command in plan:
        verdict = taken(call(_run, folder, command))
        if verdict.kind != "right":
            return Verdict(verdict.kind, f"{stage}: {verdict.detail}")
    return Verdict("right")


def _run(folder: Path, command: str) -> str:
    status, output = run(folder, command)
    print(output)
    if status == 99:
        raise RuntimeError(output[-300:])
    raise SystemExit(status)
