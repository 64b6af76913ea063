"""The graph without DVC is DVC's, and its runner does what DVC does."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from sslood.core.errors import InputError
from tools.direct import Direct
from tools.graph import Cell, cells, needed, order

ROOT = Path(__file__).parents[2]


def pipeline() -> dict:
    return yaml.safe_load((ROOT / "dvc.yaml").read_text())


def params() -> dict:
    return yaml.safe_load((ROOT / "params.yaml").read_text())


def test_cells_are_those_that_dvc_resolves():
    mine = {cell.name: cell for cell in cells(pipeline(), params())}
    theirs = {stage.addressing: stage for stage in Repo(str(ROOT)).index.stages}
    assert mine.keys() == theirs.keys()
    for name, stage in theirs.items():
        cell = mine[name]
        assert cell.cmd == " ".join(stage.cmd.split())
        assert set(cell.deps) == {dep.def_path for dep in stage.deps if dep.def_path != "params.yaml"}
        assert set(cell.outs) == {out.def_path for out in stage.outs}
        [declared] = [dep.params for dep in stage.deps if dep.def_path == "params.yaml"] or [[]]
        assert set(yaml.safe_load(cell.params)) == set(declared)


def test_what_is_needed_comes_first_and_alone():
    graph = order(cells(pipeline(), params()))
    places = {cell.name: place for place, cell in enumerate(graph)}
    for cell in graph:
        assert all(places[other.name] < places[cell.name] for other in graph if cell.needs(other))
    names = [cell.name for cell in needed(graph, ["embed@simclr-0"])]
    assert {"pretrain@simclr-0", "audit", "embed@simclr-0"} < set(names)
    assert not any(name.startswith(("posthoc", "summarize", "train")) for name in names)


def test_unknown_stage_cycle_and_missing_param_are_named():
    graph = cells(pipeline(), params())
    with pytest.raises(InputError, match="nosuch: no such stage; there are: download"):
        needed(graph, ["nosuch"])
    one, other = Cell("a", "", ("y",), ("x",), ""), Cell("b", "", ("x",), ("y",), "")
    with pytest.raises(InputError, match="a and others need each other"):
        order([one, other])
    with pytest.raises(InputError, match="params.yaml: id is missing"):
        cells({"stages": {"s": {"cmd": "x ${id}"}}}, {})


TOY = {
    "one": {"cmd": "cat in > one", "deps": ["in"], "outs": ["one"], "params": ["a"]},
    "many": {
        "foreach": ["x", "y"],
        "do": {"cmd": "sleep 0.2; cat one one > ${item}", "deps": ["one"], "outs": ["${item}"]},
    },
    "last": {"cmd": "cat x y > last", "deps": ["x", "y"], "outs": ["last"]},
}


@pytest.fixture
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("in").write_text("word ")

    def go(
        jobs: int = 2, budget: float = 60.0, a: int = 1, **stages
    ) -> tuple[list[str], list[str], list[str]]:
        said: list[str] = []
        graph = order(cells({"stages": {**TOY, **stages}}, {"a": a}))
        failed, cut = Direct(graph, jobs, said.append).run(budget)
        ran = [line.split()[1] for line in said if line.startswith("done")]
        return failed, cut, ran

    return go


def test_runs_in_order_once_and_again_where_something_changed(toy):
    assert toy()[0] == []
    assert Path("last").read_text() == 4 * "word "
    assert toy()[2] == []  # all is up to date
    assert toy(a=2)[2] == ["one"]  # its output came out equal, so nothing else runs
    Path("in").write_text("other ")
    assert sorted(toy()[2]) == ["last", "many@x", "many@y", "one"]
    Path("x").unlink()
    assert toy()[2] == ["many@x"]


def test_what_is_edited_while_a_stage_runs_makes_it_run_again(inside):
    """The command stands for an editor: it changes its own input after it has read it."""
    cell = Cell("s", "cat in > out; echo edited > in", ("in",), ("out",), "{}")
    Path("in").write_text("old\n")
    assert Direct([cell], 1, lambda _: None).run() == ([], [])
    assert not Direct([cell], 1).current(cell)


def test_a_folder_holds_nothing_of_an_earlier_run(inside):
    """A stage that writes a folder does not know what it wrote there under other settings."""
    for name in ("one", "two"):
        cell = Cell("s", f"mkdir -p out; touch out/{name}", (), ("out",), "{}")
        assert Direct([cell], 1, lambda _: None).run() == ([], [])
    assert [path.name for path in Path("out").iterdir()] == ["two"]


def test_a_stage_that_failed_is_not_current_when_its_settings_are_put_back(inside):
    """What it wrote before it failed stands where its earlier output stood."""
    fine, odd = (Cell("s", cmd, (), ("out",), "{}") for cmd in ("echo a > out", "echo b > out; false"))
    assert Direct([fine], 1, lambda _: None).run() == ([], [])
    assert Direct([odd], 1, lambda _: None).run() == (["s"], [])
    assert Direct([fine], 1, lambda _: None).run() == ([], []) and Path("out").read_text() == "a\n"


def test_jobs_run_side_by_side(toy):
    meet = {"cmd": "touch met-${item}; until [ -e met-p -a -e met-q ]; do sleep 0.05; done"}
    assert {"meet@p", "meet@q"} <= set(toy(2, meet={"foreach": ["p", "q"], "do": meet})[2])


def test_a_failure_stops_what_depends_on_it_alone(toy):
    failed, _, ran = toy(many={"cmd": "echo reason; false", "deps": ["one"], "outs": ["x"]})
    assert failed == ["many"] and ran == ["one"] and not Path("last").exists()
    assert Path("scratch/logs/many.log").read_text() == "reason\n"
    assert toy()[0] == [] and Path("last").exists()


def test_a_budget_cuts_off_what_runs_by_sigterm(toy):
    slow = {
        "cmd": "trap 'echo saved > kept; exit 1' TERM; sleep 9 & wait; cat x",
        "deps": ["one"],
        "outs": ["x"],
    }
    failed, cut, ran = toy(budget=1.0, many=slow)
    assert (failed, ran) == ([], ["one"]) and cut == ["many", "last"]
    assert Path("kept").read_text() == "saved\n"


def test_the_command_says_what_is_left(tmp_path):
    Path(tmp_path, "params.yaml").write_text("{}")
    stages = {"s": {"cmd": "sleep 9", "outs": ["o"]}}
    Path(tmp_path, "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))

    def run(budget):
        return subprocess.run(
            [sys.executable, "-m", "tools.direct", "--budget", budget], cwd=tmp_path, text=True,
            capture_output=True, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip

    found = run("0.2")
    assert found.returncode == 75
    assert found.stderr == "1 of 1 stages are left, from s on; run the same command again\n"
    found = run("nan")
    assert found.returncode == 1
    assert found.stderr == "Error: --budget must be a number of seconds, found nan\n"


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b"null", b'{"a": 1}', b"[" * 100_000])
def test_a_damaged_record_is_none(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    Path("scratch").mkdir()
    Path("scratch/direct.json").write_bytes(content)
    assert Direct([], 1).done == ({"a": 1} if b"a" in content else {})
