"""Fixtures of the data room."""

import pytest

from tests.data.serving import serving


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A badly behaving HTTP server; the download cache is an empty folder, and no proxy is asked."""
    monkeypatch.setenv("SSLOOD_DATA_CACHE", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        for spelt in (name, name.upper()):
            monkeypatch.delenv(spelt, raising=False)
    with serving() as httpd:
        yield httpd
