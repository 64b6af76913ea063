"""Fixtures for all tests: no global seeds, no network, real data through a mirror folder."""

import os
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# a shell starts what runs in its background with Ctrl-C ignored, and programs under test would inherit that
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def root() -> Path:
    """Top of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def mirror() -> Path:
    """Folder with real image sets as their publishers lay them out (see docs/data.md, "A mirror").

    Named by SSLOOD_TEST_MIRROR. Continuous integration always sets it; without it the tests on
    real downloaded images are skipped, and pytest's summary says so.
    """
    name = os.environ.get("SSLOOD_TEST_MIRROR")
    if not name:
        pytest.skip("SSLOOD_TEST_MIRROR names no folder with real image sets")
    folder = Path(name)
    if not folder.is_dir():
        pytest.fail(f"SSLOOD_TEST_MIRROR is {name!r}, which is no folder")
    return folder


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    """Tests decide the machine settings themselves."""
    for name in [name for name in os.environ if name.startswith("SSLOOD_") and name != "SSLOOD_TEST_MIRROR"]:
        monkeypatch.delenv(name)
