"""What every stage script promises: one sentence and a status, strict sections, saved work on SIGTERM."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from typing import Literal

import click
import pytest

from sslood.cli.command import ANEW, Command, StageCommand, Terminated, prepare
from sslood.cli.command import INTERRUPTED as INTERRUPTED_SAYS
from sslood.cli.output import OutputFile
from sslood.commands.__main__ import Commands
from sslood.core.errors import InputError, known
from sslood.core.files import save_text
from sslood.core.settings import read_section, strict
from sslood.deploy.maps.nearest import opened
from sslood.deploy.tables.reading import open_vectors


@dataclass(frozen=True)
class Options:
    epochs: int
    lr: float
    kind: Literal["sgd", "lars"] = "sgd"
    nesterov: bool = True
    widths: tuple[int, ...] = ()
    name: str = "x"


def run(error) -> tuple[int, str]:
    """Return status and stderr of a stage that raises `error`."""

    @click.command(cls=StageCommand)
    @click.option("--epochs", type=int, required=True)
    def stage(epochs):
        raise error

    with pytest.raises(SystemExit) as ended, pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr(click, "echo", lambda text, err=False: lines.append(text))
        patch.setattr(signal, "signal", lambda *_: None)
        stage.main(["--epochs", "3"])
    return ended.value.code, "\n".join(lines)


def test_input_errors_end_with_their_sentence():
    assert run(InputError("data/x: broken; delete it")) == (1, "Error: data/x: broken; delete it")


def test_a_full_disk_is_one_sentence():
    status, text = run(OSError(errno.ENOSPC, "No space left on device", "data/x"))
    assert status == 1 and text == "Error: data/x: the disk is full; free some space and run again"


def test_a_name_that_no_file_can_have_is_one_sentence():
    with pytest.raises(OSError) as caught:
        open("x" * 300, "rb").close()
    status, text = run(caught.value)
    assert status == 1 and text.startswith(f"Error: {'x' * 300}: a name that is longer than the file system")


@pytest.mark.parametrize("kind", ["a file, but a folder is needed", "a folder, but a file is needed"])
def test_a_path_that_is_taken_is_one_sentence(tmp_path, kind):
    if kind.startswith("a file"):
        (tmp_path / "taken").write_text("")
        path = tmp_path / "taken" / "x.json"
    else:
        path = tmp_path / "taken"
        path.mkdir()
    with pytest.raises(OSError) as caught:
        save_text(path, "x")
    status, text = run(caught.value)
    assert status == 1 and text.startswith(f"Error: {tmp_path / 'taken'}: is {kind};"), text
    assert [found.name for found in tmp_path.iterdir()] == ["taken"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 TiB"),
        RuntimeError("x: can't allocate memory: you tried"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_used_up_memory_is_one_sentence(error):
    status, text = run(error)
    assert status == 1 and text.startswith("Error: out of memory; ")


def test_interruptions_have_the_usual_statuses():
    assert run(KeyboardInterrupt())[0] == 130
    assert run(Terminated())[0] == 143


@pytest.mark.parametrize("grouped", [True, False])
def test_a_command_says_what_happens_when_it_runs_again(capsys, monkeypatch, grouped):
    @click.command(cls=Command, again=ANEW)
    def stopped():
        raise Terminated

    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")  # which the group sets
    monkeypatch.setattr(Commands, "get_command", lambda *_: stopped)
    with pytest.raises(SystemExit) as ended:
        Commands("sslood").main(["stopped"]) if grouped else stopped.main([])
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 143
    assert said == "Error: stopped by SIGTERM; run the same command again; it starts over"


@pytest.mark.parametrize("rank", ["0", "1"])
def test_of_several_processes_one_that_is_stopped_says_nothing(monkeypatch, capsys, rank):
    """Not even an empty line, which click writes after Ctrl-C."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr("sslood.cli.command.PATIENCE", 0)
    assert run(Terminated()) == (143, "")
    assert capsys.readouterr().err == ""


def test_bugs_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_bug()


def run_bug():
    @click.command(cls=StageCommand)
    def stage():
        raise ZeroDivisionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(signal, "signal", lambda *_: None)
        stage.main([])


SCRIPT = """
import click, sys, time
from sslood.cli.command import StageCommand
@click.command(cls=StageCommand)
@click.option("--epochs", type=int, required=True)
@click.option("--tags", multiple=True)
def stage(epochs, tags):
    try:
        print("ready", flush=True)
        time.sleep(epochs)
    finally:
        print("saved", flush=True)
stage()
"""


def script(root, *arguments):
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=root, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--epochs", "3", "--check"], "Option '--check' requires an argument"),
        ([], "Missing option '--epochs'"),
        (["--epohcs", "3"], "No such option '--epohcs'"),
        (["--epochs", "ten"], "'ten' is not a valid integer"),
    ],
)
def test_wrong_params_are_one_sentence_with_status_2(root, arguments, says):
    done = script(root, *arguments)
    assert done.returncode == 2
    assert says.lower().replace(":", "") in done.stderr.lower().replace(":", "")
    assert done.stderr.startswith("Error: ") and done.stderr.count("\n") == 1


def test_the_home_of_nobody_is_a_folder_of_that_name(tmp_path, monkeypatch):
    """As for a shell, which leaves ~name as it is where there is no such user."""
    monkeypatch.chdir(tmp_path)
    assert OutputFile().convert("~nosuchuser/x.csv", None, None) == "~nosuchuser/x.csv"
    with pytest.raises(InputError, match="~nosuchuser"):
        open_vectors("~nosuchuser/x.npy")
    with pytest.raises(InputError, match="~nosuchuser"):
        opened("~nosuchuser/x.safetensors")


def test_sigterm_unwinds_so_that_work_is_saved(root):
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "--epochs", "60"],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    out, err = process.communicate(timeout=30)
    assert process.returncode == 143 and out == "saved\n"
    assert "run the same command again" in err


def test_sections_are_found_by_file_and_key(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text("a:\n  b: {c: 1}\n  d: 3\n")
    assert read_section(f"{path}:a.b") == {"c": 1}
    with pytest.raises(InputError, match=r"no section 'a\.x': 'x' is not among b, d"):
        read_section(f"{path}:a.x")
    with pytest.raises(InputError, match="must hold keys and values"):
        read_section(f"{path}:a.d")
    with pytest.raises(InputError, match="no such file"):
        read_section(f"{tmp_path}/none.yaml:a")
    path.write_text("a: [")
    with pytest.raises(InputError, match="not valid YAML"):
        read_section(f"{path}:a")


def test_strict_takes_what_fits():
    made = strict(Options, {"epochs": 3, "lr": "1e-3", "widths": [1, 2]}, "train")
    assert made == Options(3, 0.001, "sgd", True, (1, 2), "x")
    assert strict(Options, {"epochs": 3, "lr": 1}, "train").lr == 1.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"epohcs": 3}, "train: unknown key 'epohcs' (did you mean 'epochs'?); known: epochs, lr"),
        ({"lr": "fast"}, "train.lr: must be of type float, found 'fast'"),
        ({"epochs": True}, "train.epochs: must be of type int, found True"),
        ({"epochs": 2.5}, "train.epochs: must be of type int, found 2.5"),
        ({"kind": "adam"}, "train.kind: must be one of sgd, lars, found 'adam'"),
        ({"widths": 3}, "train.widths: must be a list, found 3"),
        ({"widths": ["a"]}, "train.widths: must be of type int, found 'a'"),
        ({"nesterov": 1}, "train.nesterov: must be of type bool, found 1"),
    ],
)
def test_strict_names_section_key_and_value(change, says):
    with pytest.raises(InputError) as caught:
        strict(Options, {"epochs": 3, "lr": 0.1} | change, "train")
    assert says in str(caught.value)


def test_strict_names_a_missing_key():
    with pytest.raises(InputError, match="train: missing key 'lr'"):
        strict(Options, {"epochs": 3}, "train")


def test_known_lists_what_there_is():
    assert known("a", "set", {"b", "a"}) == "a"
    with pytest.raises(InputError, match="unknown set 'c'; known: a, b"):
        known("c", "set", {"b", "a"})


INTERRUPTED = """
import os, runpy, signal, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["stages/{0}.py"]
runpy.run_module("stages.{0}", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("name", ["pretrain", "ssd"])
def test_ctrl_c_while_a_script_imports_is_one_sentence(root, name):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(name)], cwd=root, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (130, f"Error: {INTERRUPTED_SAYS}\n")


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_scripts_let_openmp_wait_asleep_unless_told_otherwise(monkeypatch, before, after):
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec("stages.ssd", None))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    if before:
        monkeypatch.setenv("OMP_WAIT_POLICY", before)
    prepare()
    assert os.environ["OMP_WAIT_POLICY"] == after
