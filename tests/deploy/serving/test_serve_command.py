"""`serve` as it is run: from its first line to SIGTERM, and what it refuses before that."""

import subprocess
import sys

import httpx
import pytest

from sslood.commands import serve
from sslood.core.closure import TOP
from sslood.deploy.serving.limits import Limits
from sslood.deploy.serving.running import address, listen
from tests.kit.small import call


def test_it_serves_until_it_is_told_to_stop(detector, pictures):
    command = [sys.executable, "-m", "sslood.commands.serve", "--detector", str(detector), "--port", "0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, "--alpha", "0.1"], cwd=TOP, **pipes)
    try:
        first = process.stdout.readline()
        assert first.startswith("Serving knn on http://127.0.0.1:")
        place = first.split()[3].removesuffix("/score;")
        picture = {"images": ("photo.jpg", (pictures / "photo.jpg").read_bytes())}
        answer = httpx.post(f"{place}/score", files=picture).json()
        about = httpx.get(f"{place}/detector").json()
    finally:
        process.terminate()
        rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest) == (0, "Stopped.\n"), errors
    assert "Warning: only 100 calibration images" in errors and "Traceback" not in errors
    assert answer["alpha"] == 0.1 == about["alpha"] and answer["results"][0]["name"] == "photo.jpg"
    assert len(about["checksum"]) == 64 and about["limits"]["images"] == Limits().images


def test_what_it_refuses(detector, capsys, monkeypatch):
    with listen("127.0.0.1", 0) as taken:
        port = int(address(taken).rpartition(":")[2])
        assert call(serve.main, detector=detector, port=port) == 1
    assert f"port {port} is already in use; choose another --port" in capsys.readouterr().err
    for more, text in [
        ({"host": "no.such.host.invalid"}, "cannot listen on no.such.host.invalid port 0 ("),
        ({"max_seconds": 0}, "the limit of seconds must be above 0, found 0.0"),
        ({"alpha": 0.001}, "0.001 needs at least 999 calibration images"),
    ]:
        assert call(serve.main, detector=detector, port=0, **more) == 1
        assert text in capsys.readouterr().err
    assert call(serve.main, detector=detector.parent / "m.safetensors", port=0) == 1
    assert "expected a file of kind 'detector'" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["fastapi", "uvicorn", "python_multipart"])
def test_a_missing_package_is_named(detector, capsys, monkeypatch, package):
    for name in [
        name for name in sys.modules if name.startswith("sslood.deploy.serving.") and "limits" not in name
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    assert call(serve.main, detector=detector) == 1
    assert f"serving needs the package {package!r}: pip install -r" in capsys.readouterr().err
