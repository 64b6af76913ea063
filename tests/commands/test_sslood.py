"""The command `sslood` and its subcommands, here and as an installed package."""

import os
import shutil
import subprocess
import sys
import tomllib

import numpy as np
import pytest

from sslood.commands.__main__ import main
from sslood.core.batches import batches
from sslood.core.closure import TOP
from sslood.core.files import load_tensors
from sslood.deploy.calibrated import KINDS, calibrate, make_detector
from sslood.deploy.inputs import Inputs
from sslood.deploy.scorer import load_deployed, save_deployed
from sslood.nets.inference.extract import extract
from sslood.nets.networks.files import load_model
from sslood.ood.kit.outputs import Outputs
from tests.kit.small import write_encoder, write_sets


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        main.main(list(arguments), prog_name="sslood")
    return ended.value.code


def test_the_group_lists_the_commands_without_importing_them(capsys):
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert [name for name in ("deploy", "export", "score") if f"\n  {name}  " in said] == [
        "deploy",
        "export",
        "score",
    ]
    code = (
        "import sys; from sslood.commands.__main__ import main\n"
        "try: main.main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=TOP, stdout=subprocess.DEVNULL).returncode == 0


def test_failures_are_one_sentence(tmp_path, capsys):
    assert run("scoer") == 2
    assert capsys.readouterr().err == "Error: No such command 'scoer'; did you mean 'score'?\n"
    assert run("xyzzy") == 2
    assert "Error: No such command 'xyzzy'; there are boxes, bulk, " in capsys.readouterr().err
    assert run("score", "--detector", "x", "--images", ".", "--oot", "y") == 2
    said = capsys.readouterr().err
    assert said.startswith("Error: No such option") and "params.yaml" not in said
    assert run("score", "--detector", f"{tmp_path}/x", "--images", ".", "--out", "y") == 1
    assert f"Error: {tmp_path}/x: no such file" in capsys.readouterr().err
    assert run("deploy", "--help") == 0
    assert "python -m sslood.commands.deploy --model" in capsys.readouterr().out


def test_the_package_runs_as_a_module_and_knows_its_version():
    command = [sys.executable, "-m", "sslood"]
    said = [
        subprocess.run([*command, option], cwd=TOP, capture_output=True, text=True)
        for option in ("--version", "--help")
    ]
    assert (
        said[0].stdout
        == f"sslood {tomllib.loads((TOP / 'pyproject.toml').read_text())['project']['version']}\n"
    )
    assert "sslood fit --images normal/ --out mine.safetensors" in said[1].stdout and not said[1].returncode


POLICY = """
import os, sys
from sslood.commands.__main__ import main
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print(os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)
sys.meta_path.insert(0, Finder())
main(["score"])
"""


@pytest.mark.parametrize(("before", "after"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_openmp_waits_asleep_before_torch_is_there(before, after):
    """Also where `sslood` is the installed command, which calls `main` from a script of its own."""
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {} if before is None else {"OMP_WAIT_POLICY": before}
    command = [sys.executable, "-c", POLICY]
    done = subprocess.run(command, cwd=TOP, env=environment, capture_output=True, text=True)
    assert done.stdout == f"{after}\n", done.stderr


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The package as `pip install` puts it, from a copy of the sources, without the network."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(TOP / "sslood", source / "sslood", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(TOP / name, source / name)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder / "site")]
    command = [sys.executable, "-m", "pip", "install", *options, str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def run_installed(installed, folder, code):
    """Run Python code with the installed package in a folder that is not the repository."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_installed_detectors_import_neither_click_nor_dvc(installed, tmp_path):
    said = run_installed(
        installed,
        tmp_path,
        "import sslood.ood.posthoc.knn, sslood.ood.measures.metrics, sslood.deploy.scorer, sys\n"
        "assert not {'click', 'dvc'} & set(sys.modules)\n"
        "print(sslood.ood.posthoc.knn.__file__)",
    )
    assert said.startswith(str(installed))


def test_the_installed_scorer_decides_as_the_one_here(installed, tmp_path):
    write_sets(tmp_path)
    images = load_tensors(tmp_path / "digits.safetensors")[0]
    path = write_encoder(tmp_path / "scratch-0.safetensors")
    model, card = load_model(path)
    metadata = card.metadata()
    parts = {}
    for split in ("train", "validation"):
        arrays = extract(model, batches(images[f"{split}.images"], 256), mean=[0.3], std=[0.37])
        parts[split] = Inputs(Outputs(split, features=arrays["features"]))
    settings = KINDS["residual"].Settings(share=0.5)
    detector = make_detector("residual", settings, seed=0, device="cpu")
    calibrated = calibrate({"residual": detector}, parts["train"], parts["validation"], alpha=0.1)
    save_deployed(tmp_path / "d.safetensors", load_tensors(path)[0], metadata, calibrated)
    np.save(tmp_path / "images.npy", images["test.images"])
    said = run_installed(
        installed,
        tmp_path,
        "import numpy as np; from sslood.deploy.scorer import load_deployed\n"
        "decisions = load_deployed('d.safetensors').decide(np.load('images.npy'))\n"
        "np.save('scores.npy', decisions.scores); print(int(decisions.is_ood.sum()))",
    )
    expected = load_deployed(tmp_path / "d.safetensors").decide(images["test.images"])
    np.testing.assert_allclose(np.load(tmp_path / "scores.npy"), expected.scores, rtol=1e-6)
    assert int(said) == expected.is_ood.sum() < 60


def test_the_installed_command(installed, tmp_path):
    script = installed / "bin" / "sslood"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, str(script), "score", "--help"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "Usage: sslood score" in done.stdout, done.stderr
    assert run_installed(
        installed, tmp_path, "from sslood.commands import __main__ as m; print(m._version())"
    )


def test_the_version_costs_other_commands_nothing():
    """Finding it imports modules that take a fifth of the time in which a command starts."""
    code = "import sys, sslood.commands.__main__; print({'tomllib', 'importlib.metadata'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
