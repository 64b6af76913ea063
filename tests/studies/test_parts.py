"""Parts of a study: what they share, what is left out, cut off, failed, and goes on."""

import json
import re
import shutil
import tarfile
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

from sslood.core.errors import InputError
from sslood.core.files import save_json
from studies.accept import check_stages
from studies.pack import pack, unpack
from studies.plan import Part
from studies.results import gather
from studies.run import alone, main
from studies.runner import check_budget
from tests.studies.toy import LOST, Toy


@pytest.fixture
def toy(tmp_path, monkeypatch):
    monkeypatch.setenv("RAN", str(tmp_path / "ran"))
    monkeypatch.setenv("ROWS", str(tmp_path / "rows.csv"))
    return Toy(tmp_path)


def states(outcomes) -> list[str]:
    return [outcome.state for outcome in outcomes]


def test_parts_share_what_they_have_in_common_and_a_later_call_runs_nothing(toy):
    parts = [{"name": "one"}, {"name": "three", "settings": {"runs.seeds": [0, 1]}}]
    assert states(toy.call(parts)) == ["done", "done"]
    assert sorted(toy.ran) == ["download blobs", "download digits", "train 0", "train 1"]
    assert states(toy.call(parts)) == ["done", "done"] and toy.ran == []
    for part, models in (("one", ["m-0"]), ("three", ["m-0", "m-1"])):
        made = sorted((toy.root / "work" / part / "data/models").iterdir())
        assert [path.stem for path in made] == models


def test_threads_for_nested_regions_are_no_obstacle(toy, monkeypatch):
    """OpenMP takes a list, one number for each level."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2,1")
    monkeypatch.delenv("SSLOOD_THREADS", raising=False)
    assert states(toy.call([{"name": "one"}])) == ["done"]
    assert {one["threads"] for one in toy.store.record.values()} == {2}


def test_a_changed_value_runs_only_what_depends_on_it(toy):
    toy.call([{"name": "one", "settings": {"runs.seeds": [0, 1]}}])
    toy.call([{"name": "one", "settings": {"runs.seeds": [0, 1], "train.epochs": 2}}])
    assert sorted(toy.ran) == ["train 0", "train 1"]
    toy.call([{"name": "one", "settings": {"runs.seeds": [1]}}])
    assert toy.ran == []  # kept from the first call
    assert [path.name for path in (toy.root / "work/one/data/models").iterdir()] == ["m-1.safetensors"]


def edited(toy):
    """The toy after an edit of the code, which a later call would run `train` again for."""
    (toy.root / "sslood/room.py").write_text("# a clearer sentence\n")
    return toy


def test_what_older_code_made_is_kept_where_it_is_accepted(toy):
    parts = [{"name": "one"}, {"name": "two", "settings": {"train.epochs": 2, **LOST}}]
    toy.call(parts)
    assert states(edited(toy).call(parts, accept=["train"], revision="r2")) == ["done", "done"]
    assert "train 0" not in toy.ran and toy.evaluated == 2
    assert [line for line in toy.said if "accept" in line] == [
        "accept train@0 of one, made by r1", "accept train@0 of two, made by r1"
    ]  # fmt: skip
    revisions = {entry["stage"]: entry["revision"] for entry in toy.store.record.values()}
    assert revisions["train@0"] == "r1"
    toy.call([*parts, {"name": "three", "settings": {"runs.seeds": [0, 1]}}], revision="r3")
    assert toy.ran.count("train 0") == 0 and toy.ran.count("train 1") == 1  # another part takes it as well


def test_without_being_accepted_it_runs_again(toy):
    toy.call([{"name": "one"}])
    edited(toy).call([{"name": "one"}])
    assert toy.ran == ["train 0"]


def test_other_params_or_data_are_not_accepted(toy):
    """One seed is new, so it runs; of the other part `train` has another value, so it does too."""
    toy.call([{"name": "one"}, {"name": "two"}])
    parts = [
        {"name": "one", "settings": {"runs.seeds": [0, 1]}},
        {"name": "two", "settings": {"train.epochs": 3}},
    ]
    edited(toy).call(parts, accept=["train"])
    assert [line for line in toy.said if "accept" in line] == ["accept train@0 of one, made by r1"]
    assert sorted(toy.ran) == ["train 0", "train 1"]
    model = toy.root / "work/two/data/models/m-0.safetensors"
    assert model.read_text() == "3\n"


@pytest.mark.parametrize("ran", [False, True])
def test_nothing_to_accept_is_an_error(toy, ran):
    if ran:
        toy.call([{"name": "one"}])  # by the same code
    with pytest.raises(InputError, match="--accept train: .*work holds nothing of it that other code made"):
        toy.call([{"name": "one"}], accept=["train"])


def test_an_unknown_stage_is_no_stage_to_accept():
    with pytest.raises(InputError, match="--accept trian: no such stage .did you mean 'train'"):
        check_stages(["train", "trian"])


def test_a_set_that_cannot_be_had_is_dropped_and_named(toy):
    parts = [{"name": "free", "settings": LOST}, {"name": "bound", "settings": LOST, "needs": ["lost"]}]
    free, bound = toy.call(parts)
    assert free.state == "done" and free.absent == {"lost": "set lost cannot be obtained"}
    assert (bound.state, bound.reason) == ("left out", "set lost cannot be had")
    assert toy.ran.count("download lost") == 1  # not tried again in this call
    assert "lost" not in (toy.root / "work/free/params.yaml").read_text()
    gather(toy.study, toy.root / "work", toy.root / "results", toy.store)
    page = (toy.root / "results/README.md").read_text()
    assert "Set `lost` could not be had and is absent from free." in page
    assert f"`python -m studies.run {toy.study.name}.yaml` makes these results" in page  # a file of one's own
    assert "- `bound`: left out: set lost cannot be had." in page
    assert not (toy.root / "results/bound").exists()


def test_a_stage_that_fails_is_named_and_the_others_finish(toy):
    odd = {"runs.seeds": [0, 1], "train.command": "{ echo because; tail -n 1 $RAN | grep -q 1; }"}
    broken, fine = toy.call([{"name": "broken", "settings": odd}, {"name": "fine"}])
    assert (broken.state, broken.failed) == ("failed", {"train@0": "because"}) and fine.state == "done"
    assert "train 1" in toy.ran and any(line.startswith("failed train@0") for line in toy.said)


@pytest.fixture
def ends(toy, monkeypatch):
    """Time runs out as soon as a stage has made the file `up`."""
    clock = SimpleNamespace(monotonic=lambda: 1e9 * (toy.root / "up").exists(), sleep=time.sleep)
    monkeypatch.setattr("tools.runner.time", clock)
    monkeypatch.setenv("UP", str(toy.root / "up"))


def test_what_time_cuts_off_goes_on_in_the_next_call(toy, ends):
    """The stage keeps a checkpoint when it is asked to end, and ends at once when it finds one."""
    slow = "test -e scratch/m.pt || { trap 'touch scratch/m.pt; exit 1' TERM; touch $UP; sleep 60 & wait; }"
    parts = [{"name": "slow", "settings": {"train.command": slow}}]
    [cut] = toy.call(parts)
    assert (cut.state, cut.made, cut.total) == ("unfinished", 2, 5)
    (toy.root / "up").unlink()
    assert states(toy.call(parts)) == ["done"] and toy.ran == ["train 0"]
    assert not any("lost" in one for one in toy.store.record.values())


@pytest.mark.parametrize("file", ["sweeps/0a.json", "pretrained/0a.csv"])
def test_what_kept_something_else_than_a_checkpoint_goes_on_with_the_same_budget(toy, ends, file):
    """A sweep keeps cells and encoders; it may be cut off before the next one has a checkpoint."""
    slow = f"mkdir -p scratch/{file.split('/')[0]}; touch scratch/{file} $UP; sleep 60"
    assert states(toy.call([{"name": "one", "settings": {"train.command": slow}}])) == ["unfinished"]
    assert not any("lost" in one for one in toy.store.record.values())


def test_a_budget_that_is_no_number_is_refused(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["cifar10-cpu", "--budget", "nan"])
    assert ended.value.code == 1
    assert capsys.readouterr().err == "Error: --budget must be a number of seconds, found nan\n"


def test_a_budget_that_would_never_do_is_refused_at_once(toy, ends):
    with pytest.raises(InputError, match="--budget 2 is too small: .* 3 seconds; say at least --budget 3"):
        toy.call([{"name": "one"}], budget=2.0, least=3.0)
    assert states(toy.call([{"name": "one", "settings": {"train.command": "touch $UP; sleep 60"}}])) == [
        "unfinished"
    ]
    [(key, lost)] = [(key, one["lost"]) for key, one in toy.store.record.items() if "lost" in one]
    said = f"train@0 had {lost:g} seconds in an earlier call and came to no end"
    for budget in (lost, 1.04 * lost):  # a call has something to do before its first stage
        with pytest.raises(InputError, match=said):
            check_budget(budget, 0.0, [key], toy.store)
    check_budget(1.06 * lost, 0.0, [key], toy.store)


def test_what_had_too_little_time_with_other_settings_refuses_no_budget(toy, ends):
    slow = {"name": "one", "settings": {"train.command": "touch $UP; sleep 60"}}
    assert states(toy.call([slow])) == ["unfinished"]
    [lost] = [one for one in toy.store.record.values() if "lost" in one]
    lost["lost"] = 30.0
    save_json(toy.store.file, toy.store.record)
    (toy.root / "up").unlink()
    with pytest.raises(InputError, match="train@0 had 30 seconds"):
        toy.call([slow], budget=20.0)
    assert states(toy.call([{"name": "one"}], budget=20.0)) == ["done"]


PREPARED = {"prepare": {"scratch/pictures": "python -c 'import sys; open(sys.argv[1], \"x\")' {path}"}}


def test_what_the_stages_read_is_made_before_them_once(toy):
    reads = {"name": "one", "settings": {"train.command": "test -e scratch/pictures"}}
    [failed] = toy.call([reads])
    assert failed.state == "failed"
    assert states(toy.call([reads | PREPARED])) == ["done"]
    assert states(toy.call([reads | PREPARED])) == ["done"]  # a second time, "x" would fail


def test_what_cannot_be_made_before_the_stages_is_named(toy):
    broken = {"name": "broken", "prepare": {"scratch/a": "sh -c 'echo because; exit 3' {path}"}}
    empty = {"name": "empty", "prepare": {"scratch/b": "true {path}"}}
    first, second, fine = toy.call([broken, empty, {"name": "fine"}])
    assert (first.state, first.failed) == ("failed", {"broken/scratch/a": "because"})
    assert second.failed == {"empty/scratch/b": "it ended well, but did not make it"}
    assert fine.state == "done"


def test_a_budget_that_is_too_small_for_a_command_is_refused_in_the_next_call(toy):
    """Otherwise each call would begin it again, and no part behind it would ever have its turn."""
    parts = [{"name": "speed", "command": "sleep 30"}, {"name": "one"}]
    assert states(toy.call(parts[:1], budget=2.0)) == ["unfinished"]
    with pytest.raises(InputError, match=r"--budget 2 is too small: speed had [\d.]+ seconds .* --budget 4"):
        toy.call(parts, budget=2.0)
    quick = [{"name": "speed", "command": "echo fast"}, parts[1]]
    assert states(toy.call(quick, budget=60.0)) == ["done", "done"]


def test_what_a_part_needs_at_least_is_its_own(toy):
    parts = [{"name": "one"}, {"name": "long", "least": 50}]
    with pytest.raises(InputError, match="--budget 40 is too small: .* needs 50 seconds"):
        toy.call(parts, budget=40.0)
    assert states(toy.call(parts[:1], budget=40.0)) == ["done"]


def test_a_command_runs_once_for_each_revision(toy):
    parts = [{"name": "speed", "command": "sh -c 'echo run >> $RAN; echo fast'"}]
    assert states(toy.call(parts)) == ["done"] and toy.ran == ["run"]
    assert states(toy.call(parts)) == ["done"] and toy.ran == []
    gather(toy.study, toy.root / "work", toy.root / "results", toy.store)
    assert (toy.root / "results/speed/output.txt").read_text() == "fast\n"
    assert json.loads((toy.root / "results/speed/origin.json").read_text())["revision"] == ["r1"]
    toy.call(parts, commands="r2")  # the program was edited, and no stage
    assert len(toy.ran) == 1
    gather(toy.study, toy.root / "work", toy.root / "results", toy.store)
    assert json.loads((toy.root / "results/speed/origin.json").read_text())["revision"] == ["r2"]
    [failed] = toy.call([{"name": "speed", "command": "sh -c 'echo no device; exit 3'"}])
    assert (failed.state, failed.failed) == ("failed", {"speed": "no device"})


def test_results_hold_what_is_done_and_say_where_it_comes_from(toy):
    parts = [{"name": "one"}, {"name": "gpu", "device": "cuda", "settings": {"train.epochs": 3}}]
    toy.call(parts)
    results = toy.root / "results"
    gather(toy.study, toy.root / "work", results, toy.store)
    assert {path.name for path in results.iterdir()} == {"one", "README.md", "index.html", "table.csv"}
    assert {"params.yaml", "results.csv", "origin.json"} <= {
        path.name for path in (results / "one").iterdir()
    }
    page = (results / "README.md").read_text()
    assert "| `one` | `m` | 1 |" in page and "r1 | h1 |" in page and "`gpu`: left out: no CUDA device" in page
    table = (results / "table.csv").read_text().splitlines()
    assert table[1].startswith("one,posthoc,m,knn,far,1,1,50,60,0.9,")
    stages = (results / "one/stages.csv").read_text().splitlines()
    assert stages[0] == "stage,seconds,threads,digest" and len(stages) == 6
    assert re.search(r"Each stage counted once, this took \d+\.\d seconds of stages", page)
    measured = (results / "one/params.yaml").read_text()
    toy.call([{"name": "one", "settings": {"train.command": "false"}}])  # what was measured stays
    gather(toy.study, toy.root / "work", results, toy.store)
    assert (results / "one/params.yaml").read_text() == measured


def test_results_of_a_tiny_run_are_told_from_others_in_the_same_folder(toy):
    """A later call of another part gathers them again."""
    toy.call([{"name": "one"}], is_tiny=True)
    toy.call([{"name": "two"}])
    both = replace(toy.study, parts=(Part("one"), *toy.study.parts))
    gather(both, toy.root / "work", toy.root / "results", toy.store)
    assert "The results of `one` are of a tiny run" in (toy.root / "results/README.md").read_text()
    origins = {name: (toy.root / "results" / name / "origin.json").read_text() for name in ("one", "two")}
    assert "tiny" in origins["one"] and "tiny" not in origins["two"]


def test_the_page_says_why_a_part_failed(toy):
    """Also where it holds what would be a tag, or a mark of Markdown."""
    said = """sh -c 'echo "Error: no <kernel> in \\`a\\`"; exit 3'"""
    odd = {"train.command": "{ echo because; false; }"}
    toy.call([{"name": "one"}, {"name": "speed", "command": said}, {"name": "odd", "settings": odd}])
    gather(toy.study, toy.root / "work", toy.root / "results", toy.store)
    markdown, html = ((toy.root / "results" / name).read_text() for name in ("README.md", "index.html"))
    assert "- `speed`: failed: `Error: no <kernel> in 'a'`." in markdown
    assert "<code>speed</code>: failed: <code>Error: no &lt;kernel&gt; in &#39;a&#39;</code>." in html
    assert "- `odd`: failed: train@0 (`because`)." in markdown


def test_results_keep_the_params_they_came_from_when_a_later_run_is_interrupted(toy, monkeypatch):
    """The work folder then has new params beside old numbers."""
    toy.call([{"name": "one"}])
    gather(toy.study, toy.root / "work", toy.root / "results", toy.store)
    params = toy.root / "results/one/params.yaml"
    before = params.read_text()

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("studies.runner.PartRunner.run", interrupted)
        toy.call([{"name": "one", "settings": {"train.epochs": 2}}])
    gather(toy.study, toy.root / "work", toy.root / "results", toy.store)
    assert params.read_text() == before
    toy.call([{"name": "one", "settings": {"train.epochs": 2}}])
    gather(toy.study, toy.root / "work", toy.root / "results", toy.store)
    assert "epochs: 2" in params.read_text()


def test_results_hold_the_sweeps_of_a_part_and_link_them(toy):
    alone = {"name": "swept", "goals": ["sweep"]}
    toy.call([alone | {"settings": {"runs.sweeps": ["early", "late"]}}, {"name": "one"}])
    work, results = toy.root / "work", toy.root / "results"
    gather(toy.study, work, results, toy.store)
    swept = results / "swept/sweeps"
    assert {path.relative_to(swept).as_posix() for path in swept.glob("*/*")} == {
        f"{sweep}/{name}" for sweep in ("early", "late") for name in ("table.md", "scores.csv", "beta.svg")
    }
    assert (swept / "late/table.md").read_text() == "late\n" and not (results / "one/sweeps").exists()
    for page, link in (("README.md", "({})"), ("index.html", 'href="{}"')):
        text = (results / page).read_text()
        linked = [f"swept/sweeps/{sweep}/{name}" for sweep in ("early", "late")
                  for name in ("table.md", "beta.svg")]  # fmt: skip
        assert all(link.format(path) in text and (results / path).is_file() for path in linked), page
    toy.call([alone | {"settings": {"runs.sweeps": ["late"]}}])  # `early` is no longer of the part
    gather(toy.study, work, results, toy.store)
    assert [path.name for path in swept.iterdir()] == ["late"] and (
        work / "swept/metrics/sweeps/early"
    ).exists()
    assert "early" not in (results / "README.md").read_text()


def test_what_is_packed_goes_on_elsewhere(toy):
    speed = {"name": "speed", "command": "sh -c 'echo run >> $RAN; echo fast'"}
    parts = [{"name": "one", "settings": {"runs.seeds": [0, 1]}}, speed]
    toy.call(parts)
    work, results, out = (toy.root / name for name in ("work", "results", "out"))
    gather(toy.study, work, results, toy.store)
    before = {path.name: path.read_text() for path in results.iterdir() if path.is_file()}
    assert pack(work, results, out, piece=1000) > 5
    pieces = sorted(out.iterdir())
    assert pieces[0].name == "study-00" and all(path.stat().st_size <= 1000 for path in pieces)
    for folder in (work, results):
        shutil.rmtree(folder)
    unpack(out, work, results)
    assert {path.name: path.read_text() for path in results.iterdir() if path.is_file()} == before
    stages, count = (results / "one/stages.csv").read_text(), toy.evaluated
    larger = {"name": "two", "settings": {"runs.seeds": [0, 1, 2]}}
    assert states(toy.call([*parts, larger])) == ["done", "done", "done"]
    assert sorted(toy.ran) == ["download blobs", "download digits", "train 2"]  # models and output are there
    assert toy.evaluated == count + 1  # of the larger part: the results of the other are there
    gather(toy.study, work, results, toy.store)
    assert (results / "one/stages.csv").read_text() == stages
    assert {path.name for path in (results / "two").iterdir()} >= {"results.csv", "origin.json"}
    changed = [{"name": "one", "settings": {"runs.seeds": [0]}}, speed]
    toy.call(changed)
    gather(toy.study, work, results, toy.store)
    assert toy.evaluated == count + 2 and (results / "one/stages.csv").read_text() != stages
    assert pack(work, results, out, total=200_000, piece=200_000) > 5
    (out / "study-00").write_bytes((out / "study-00").read_bytes()[:-100])
    with pytest.raises(InputError, match="out: not what --pack wrote, or not all of it"):
        unpack(out, toy.root / "work2", toy.root / "results2")
    with pytest.raises(InputError, match="no file study-00 in it"):
        unpack(work, work, results)


def test_what_a_stage_made_is_packed_whole_or_not_at_all(tmp_path):
    """A stage of which a part is there runs again; models matter more than scores."""
    work, out = tmp_path / "work", tmp_path / "out"
    sizes = {
        **{"a/data/models/m.safetensors": 40_000, "a/data/curves/m.csv": 100},
        **{"b/data/models/n.safetensors": 30_000, "b/data/curves/n.csv": 40_000},
        **{"c/data/scores/s.safetensors": 30_000, "d/data/sets/s.safetensors": 10},
        **{"e/data/embeddings/0/e.safetensors": 10, "f.part/data/models/m.safetensors": 10},
    }
    for name, size in sizes.items():
        (work / "made" / name).parent.mkdir(parents=True, exist_ok=True)
        (work / "made" / name).write_bytes(bytes(size))
    assert pack(work, tmp_path / "results", out, total=130_000) == 2  # one model, and no scores
    unpack(out, tmp_path / "other", tmp_path / "results")
    assert sorted(path.name for path in (tmp_path / "other").rglob("*.*")) == ["m.csv", "m.safetensors"]
    assert pack(work, tmp_path / "results", out) == 5


def test_files_that_a_stage_makes_for_some_params_only_are_those_of_its_run(toy):
    """The toy writes published.md after two epochs."""
    epochs = [{"name": "one", "settings": {"train.epochs": number}} for number in (1, 2)]
    place = toy.root / "work/one/metrics/published.md"
    for number, is_there in ((0, False), (1, True), (0, False), (1, True)):
        toy.call([epochs[number]])
        assert place.exists() == is_there
    toy.call([epochs[1] | {"name": "other"}])
    assert (toy.root / "work/other/metrics/published.md").exists()


def test_a_download_that_fails_for_another_reason_fails_the_part(toy):
    """A full disk must not take a set out of results that had it."""
    graph = yaml.safe_load((toy.root / "dvc.yaml").read_text())
    download = graph["stages"]["download"]["do"]
    download["cmd"] = download["cmd"].replace("set lost cannot be obtained", "the disk is full")
    (toy.root / "dvc.yaml").write_text(yaml.safe_dump(graph, sort_keys=False))
    [outcome] = toy.call([{"name": "one", "settings": LOST}])
    assert (outcome.state, outcome.absent) == ("failed", {})
    assert outcome.failed == {"download@lost": "the disk is full"} and "train 0" in toy.ran


def test_a_stage_that_runs_anew_has_the_seconds_of_its_last_run(toy):
    toy.call([{"name": "one"}])
    store = toy.store
    store.note("key", "stage", 2.0, 1, ended=False)
    store.note("key", "stage", 3.0, 1, ended=True)
    assert store.record["key"]["seconds"] == 5.0
    store.note("key", "stage", 4.0, 1, ended=True)
    assert store.record["key"]["seconds"] == 4.0


def test_results_that_are_there_are_not_mixed_with_packed_ones(tmp_path):
    """Files of one part come from one run, as its origin.json says."""
    packed, here = tmp_path / "packed", tmp_path / "here"
    for folder, names in ((packed, ("one/origin.json", "one/stages.csv", "two/origin.json")),
                          (here, ("one/origin.json",))):  # fmt: skip
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(folder.name)
    pack(tmp_path / "work", packed, tmp_path / "out")
    unpack(tmp_path / "out", tmp_path / "other", here)
    found = {path.relative_to(here).as_posix(): path.read_text() for path in here.rglob("*.*")}
    assert found == {"one/origin.json": "here", "two/origin.json": "packed"}


def test_two_calls_do_not_meet(tmp_path):
    with alone(tmp_path), pytest.raises(InputError, match="another call runs this study"), alone(tmp_path):
        pass


@pytest.mark.parametrize("name", ["work/../evil.json", "work//evil.json", "results/a/../../evil.json"])
def test_a_pack_that_would_write_elsewhere_is_refused(tmp_path, name):
    with tarfile.open(tmp_path / "study-00", "w:gz") as archive:
        archive.addfile(tarfile.TarInfo(name))
    with pytest.raises(InputError, match="not what --pack wrote"):
        unpack(tmp_path, tmp_path / "in" / "work", tmp_path / "in" / "results")
    assert not list(tmp_path.rglob("evil.json"))
