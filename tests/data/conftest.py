"""Fixtures of the data room."""

from pathlib import Path

import pytest

from tests.data.serving import serving


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A badly behaving HTTP server; the download cache is an empty folder, and no proxy is asked."""
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SSLOOD_DATA_MIRROR", raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        for spelt in (name, name.upper()):
            monkeypatch.delenv(spelt, raising=False)
    with serving() as httpd:
        httpd.cache = tmp_path / "cache"
        yield httpd


@pytest.fixture
def fashion_mnist() -> Path:
    """Folder of the real Fashion-MNIST: apt install dataset-fashion-mnist (no network is used in tests)."""
    folder = Path("/usr/share/datasets/fashion-mnist")
    if not folder.is_dir():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    return folder
