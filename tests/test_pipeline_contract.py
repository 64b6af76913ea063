"""The pipeline's contract: what dvc.yaml, params.yaml, the scripts and the results promise each other."""

import ast
import contextlib
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dvc.repo import Repo
from dvc.stage.exceptions import StageCmdFailedError
from dvc.stage.run import cmd_run
from dvc.utils.serialize import dumps_yaml
from ruamel.yaml import YAML

from sslood.cli.command import CHECK
from sslood.cli.params import check_params
from sslood.cli.sections import FROM, expanded
from sslood.core.closure import import_closure
from tools.closure import ROOT, code_deps, is_code, script_of
from tools.switch import apply

STAGES = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]
TORCH_FREE = {"download", "audit", "summarize"}


def params_of(folder: Path) -> dict:
    return YAML(typ="safe").load(folder / "params.yaml")


def definition(name: str) -> dict:
    return STAGES[name].get("do", STAGES[name])


@pytest.fixture(scope="module")
def index():
    """Every stage with its templates filled in."""
    with Repo(str(ROOT)) as repo:
        yield repo.index


def group(stage) -> str:
    return stage.name.split("@")[0]


@pytest.mark.parametrize("name", STAGES)
def test_every_stage_says_what_it_does(name):
    assert len(definition(name)["desc"]) > 20


@pytest.mark.parametrize("name", STAGES)
def test_declared_code_is_the_rooms_that_a_stage_touches(name):
    """A missing dep gives stale results, a superfluous one re-runs for nothing."""
    declared = [dep for dep in definition(name)["deps"] if is_code(dep) and "${" not in dep]
    assert declared == code_deps(definition(name)), "run `python -m tools.closure --write`"


def test_a_file_that_an_item_names_is_there(index):
    for stage in index.stages:
        for dep in stage.deps:
            assert not is_code(dep.def_path) or (ROOT / dep.def_path).exists(), dep.def_path


def test_code_deps_are_few(index):
    """DVC's cost grows with the deps, and a list that nobody can read hides what a stage depends on."""
    listed = sum(is_code(dep) for name in STAGES for dep in definition(name)["deps"])
    assert listed <= 143
    assert sum(is_code(dep.def_path) for stage in index.stages for dep in stage.deps) <= 300


def arguments_of(stage) -> list[str]:
    """Return what the script of a stage gets from the shell, but for the check of all params."""
    words = [word.replace("$DVC_STAGE", stage.addressing) for word in shlex.split(stage.cmd)[3:]]
    at = words.index(CHECK) if CHECK in words else len(words)
    return words[:at] + words[at + 2 :]


def test_every_command_is_accepted_by_its_script(index, monkeypatch):
    """All options are required, so this compares option names and params keys both ways."""
    monkeypatch.chdir(ROOT)
    for stage in index.stages:
        module = script_of(stage.cmd)
        command = importlib.import_module(module).main
        arguments = expanded(command, arguments_of(stage))
        given = {word.split("=")[0] for word in arguments if word.startswith("--")}
        context = command.make_context(module, list(arguments))
        for value in context.params.values():
            assert "{" not in str(value), f"{stage.addressing}: {value} is not filled in"
        context.close()
        for option in command.params:
            if option.opts[0] in (CHECK, FROM):
                continue
            assert (
                option.required
                or set(option.opts + option.secondary_opts) & given
                or option.default is not None
            ), f"{module}: {option.opts[0]} is neither required nor given"


@pytest.mark.parametrize("name", STAGES)
def test_every_section_that_a_script_reads_is_declared(name):
    """What stands in the command is tracked with it; a section read from the file has to be named."""
    found = definition(name)
    words = [word.strip('"') for word in found["cmd"].split()]
    read = {word.removeprefix("params.yaml:") for word in words if word.startswith("params.yaml:")}

    def same(place: str) -> str:
        """Write `{name}` of a command and `${item.name}` of DVC in one way."""
        return re.sub(r"\$?\{(item\.)?(\w+)\}", lambda hole: "{" + hole[2].replace("key", "set") + "}", place)

    assert {same(place) for place in read} == {same(place) for place in found["params"]}


@pytest.mark.parametrize("name", STAGES)
def test_nothing_of_the_params_stands_in_a_command_but_the_items_of_a_matrix(name):
    """DVC quotes the values of a mapping that it unpacks, neither its keys nor a single value.

    A matrix has the keys that dvc.yaml gives it. That each stands in the name of an out makes DVC refuse a
    mapping or a list as its value, whose keys would be unpacked too.
    """
    matrix = STAGES[name].get("matrix", {})
    references = re.findall(r"\$\{.*?\}", definition(name)["cmd"])
    assert references == ["${item}"] * bool(matrix)
    named = [set(re.findall(r"\$\{item\.(\w+)\}", str(out))) for out in definition(name).get("outs", [])]
    assert not matrix or set(matrix) in named


HOSTILE = [
    "$(touch ran)",
    "`touch ran`",
    "x; touch ran; #",
    "x' ; touch ran ; '",
    '" ; touch ran ; "',
    "x\ntouch ran\n",
    "x & touch ran | touch ran > ran",
    "${IFS}$(touch${IFS}ran)",
]


def hostile(value, word: str):
    """Return a value of the params with `word` for each text, and as one more key of each mapping."""
    if isinstance(value, dict):
        return {key: hostile(item, word) for key, item in value.items()} | {word: word}
    if isinstance(value, list):
        return [word]
    return word


@pytest.mark.parametrize("word", HOSTILE)
def test_hostile_params_run_nothing(tmp_path, monkeypatch, word):
    """DVC resolves and runs every command, in the shell, with a python that does nothing."""
    params = hostile(params_of(ROOT), word) | {"sets": {word: {"role": word, "source": word, word: word}}}
    (tmp_path / "params.yaml").write_text(json.dumps(params))
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").write_text("#!/bin/sh\n")
    (tmp_path / "bin/python").chmod(0o755)
    outside_git(tmp_path)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    with Repo(str(tmp_path)) as repo:
        monkeypatch.chdir(tmp_path)
        stages = repo.index.stages
        assert {group(stage) for stage in stages} == set(STAGES)
        for stage in stages:
            with contextlib.suppress(StageCmdFailedError):  # a line break within quotes: the shell refuses it
                cmd_run(stage)
    assert sorted(tmp_path.iterdir()) == before


def test_stages_that_need_no_torch_do_not_import_it():
    for name in TORCH_FREE:
        for path in import_closure(script_of(definition(name)["cmd"])):
            tree = ast.parse(path.read_text())
            top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            names = {alias.name for node in top for alias in node.names} | {
                getattr(node, "module", "") for node in top
            }
            assert not {"torch", "torchvision"} & {str(name).split(".")[0] for name in names}, (
                f"{name}: {path}"
            )


def test_the_graph_is_small_enough_for_dvc(index):
    assert len(index.stages) < 80


def test_data_is_ignored_and_metrics_are_not(index):
    for out in {out.def_path for out in index.outs}:
        ignored = subprocess.run(["git", "check-ignore", "-q", out], cwd=ROOT).returncode == 0
        assert ignored == (not out.startswith("metrics/")), out


def test_metrics_are_kept_in_git_and_everything_else_in_the_cache(index):
    for out in index.outs:
        assert out.use_cache == (not out.def_path.startswith("metrics/")), out.def_path
        assert not out.persist


def test_plots_show_the_loss_of_every_epoch(index):
    """DVC would take the last column, which most epochs do not measure, and draw 0 for these."""
    plots = [out.plot for out in index.outs if out.plot]
    assert plots and all(plot == {"x": "epoch", "y": "loss"} for plot in plots)


def hit_by(index, path: str) -> list:
    """Return the stages that a changed or new file concerns directly: it is or lies in one of their deps."""
    return [s for s in index.stages if any(Path(path).is_relative_to(dep.def_path) for dep in s.deps)]


def runs_again(index, path: str) -> set[str]:
    """Return the groups of stages that depend on a file, directly or through what follows."""
    graph = index.graph.reverse()  # DVC's arrows point from a stage to what it needs
    hit = hit_by(index, path)
    seen = set(hit)
    while hit:
        hit = [child for stage in hit for child in graph.successors(stage) if child not in seen]
        seen |= set(hit)
    return {group(stage) for stage in seen}


TRAININGS = {"pretrain", "variants", "train", "finetune", "methods", "energy", "leaveout"}
ADDED = {  # a new file of each kind -> the stages that run again
    "sslood/nets/objectives/new.py": set(),
    "sslood/nets/backbones/new.py": set(),
    "sslood/data/sources/new.py": set(),
    "sslood/ood/network/new.py": set(),
    "sslood/ood/stochastic/new.py": set(),
    "sslood/ood/posthoc/new.py": {"posthoc", "summarize"},  # seconds; one stage evaluates all detectors
    "sslood/commands/new.py": set(),
    "sslood/deploy/new.py": set(),
    "stages/new.py": set(),
    "tools/new.py": set(),
    "profiles/new.yaml": set(),
}


@pytest.mark.parametrize("path", ADDED)
def test_adding_a_file_runs_nothing_again(index, path):
    assert runs_again(index, path) == ADDED[path]


def test_what_adding_a_file_means_to_dvc(index, tmp_path):
    """The same, asked of DVC's own hashes: new files of every kind change no dep but that of posthoc."""
    for name in ("sslood", "stages", "architectures"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("dvc.yaml", "params.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    outside_git(tmp_path)

    def hashes() -> dict[str, str]:
        with Repo(str(tmp_path)) as repo:
            deps = {dep.def_path: dep for stage in repo.index.stages for dep in stage.deps}
            return {path: dep.get_hash().value for path, dep in deps.items() if is_code(path)}

    before = hashes()
    for path in ADDED:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("x = 1\n")
    after = hashes()
    assert {path for path in before if before[path] != after[path]} == {"sslood/ood/posthoc"}


def test_changing_the_command_line_runs_nothing_again(index):
    for path in (
        "sslood/cli/command.py",
        "sslood/cli/options.py",
        "README.md",
        "Makefile",
        "docs/results.md",
    ):
        assert not runs_again(index, path)


def test_a_new_role_trains_nothing(index):
    assert not {group(stage) for stage in hit_by(index, "sslood/data/sets/roles/roles.py")} & TRAININGS


@pytest.mark.parametrize("room", ["sslood/ood/measures", "sslood/report", "sslood/auditing", "sslood/views"])
def test_evaluating_trains_nothing(index, room):
    again = runs_again(index, f"{room}/new.py")
    # `energy` waits for the audit's list of false outliers, whose bytes stay as long as the images do
    assert again & TRAININGS <= ({"energy"} if "audit" in again else set())


@pytest.mark.parametrize("detector", ["msp", "energy", "knn", "mahalanobis"])
def test_editing_a_detector_runs_its_evaluation_and_the_summary(index, detector):
    assert runs_again(index, f"sslood/ood/posthoc/{detector}.py") == {"posthoc", "summarize"}


@pytest.mark.parametrize("room, own", [("network", ["network"]), ("stochastic", ["stochastic", "sweep"])])
def test_detectors_that_the_quickstart_does_not_run_concern_their_own_stages(room, own):
    assert [name for name in STAGES if f"sslood/ood/{room}" in definition(name)["deps"]] == own


def test_editing_ssd_runs_its_evaluations_and_the_summary(index):
    assert runs_again(index, "sslood/ood/ssd/ssd.py") <= {"ssd", "ssdk", "summarize"}


def test_editing_an_objective_trains_only_that_objective_again(index):
    hit = [stage.name for stage in hit_by(index, "sslood/nets/objectives/simclr.py")]
    assert hit and all(name.startswith("pretrain@simclr-") for name in hit)


def test_editing_a_backbone_trains_only_what_it_is_the_backbone_of(index):
    hit = {stage.name for stage in hit_by(index, "sslood/nets/backbones/densenet.py")}
    assert hit and all(name.startswith("leaveout@densenet") for name in hit)


def outside_git(folder: Path) -> None:
    """Let DVC work in a folder that is no git repository."""
    (folder / ".dvc").mkdir(exist_ok=True)
    config = (ROOT / ".dvc/config").read_text().replace("[core]", "[core]\n    no_scm = true")
    (folder / ".dvc/config").write_text(config)


def names_with(tmp_path, change) -> dict[str, str]:
    """Return {stage: command} of the pipeline with changed params."""
    yaml = YAML()
    params = yaml.load(ROOT / "params.yaml")
    change(params)
    yaml.dump(params, tmp_path / "params.yaml")
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    outside_git(tmp_path)
    with Repo(str(tmp_path)) as repo:
        return {stage.addressing: stage.cmd for stage in repo.index.stages}


def test_adding_a_seed_adds_only_its_own_stages(tmp_path):
    before = names_with(tmp_path, lambda params: None)
    after = names_with(tmp_path, lambda params: params["runs"]["seeds"].append(7))
    changed = {name for name in before if before[name] != after.get(name)}
    assert not changed
    assert all("7" in name.split("@")[1] for name in after.keys() - before.keys())


def test_committed_params_are_the_quickstart(tmp_path):
    """`make profile P=quickstart` on the committed file changes nothing."""
    copy = tmp_path / "params.yaml"
    copy.write_text((ROOT / "params.yaml").read_text())
    assert not apply(copy, ROOT / "profiles/quickstart.yaml", ROOT / "profiles/quickstart.yaml")


def test_every_profile_makes_a_graph(tmp_path, monkeypatch):
    profiles = sorted((ROOT / "profiles").glob("*.yaml"))
    assert len(profiles) >= 2
    for profile in profiles:
        folder = tmp_path / profile.stem
        folder.mkdir()
        for name in ("dvc.yaml", "params.yaml"):
            (folder / name).write_text((ROOT / name).read_text())
        apply(folder / "params.yaml", profile, ROOT / "profiles/quickstart.yaml")
        outside_git(folder)
        with Repo(str(folder)) as repo:
            stages = repo.index.stages
        assert 10 < len(stages) < 100, profile
        monkeypatch.chdir(folder)
        check_params(Path("params.yaml"))
        for stage in stages:
            module = script_of(stage.cmd)
            importlib.import_module(module).main.make_context(module, arguments_of(stage)).close()


def lock() -> dict:
    return YAML(typ="safe").load(ROOT / "dvc.lock")["stages"]


def test_the_lock_holds_the_stages_of_the_graph_and_no_others(index):
    assert set(lock()) == {stage.addressing for stage in index.stages}


def test_the_lock_is_written_as_dvc_writes_it():
    """Else a run that changes nothing would still change the file."""
    text = (ROOT / "dvc.lock").read_text()
    assert dumps_yaml(YAML().load(text)) == text


def test_committed_results_come_from_the_committed_code():
    """Missing data is fine (a fresh clone has none); changed code, params or commands are not."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"], cwd=ROOT, capture_output=True, text=True
    )
    stale = {}
    for name, changes in json.loads(done.stdout).items():
        for change in changes:
            if change == "changed command":
                stale[name] = change
                continue
            for entries in change.values():
                for path, what in entries.items():
                    absent = what in ("deleted", "not in cache")
                    # a folder of results whose files are absent reads as modified
                    if not absent and not (path.startswith("data/") and what in ("modified", "new")):
                        stale[name] = f"{path}: {what}"
    assert not stale, "run `dvc repro` and commit dvc.lock and metrics/"
