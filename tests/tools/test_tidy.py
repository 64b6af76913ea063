"""`make tidy` removes what can be had back from DVC's cache, and nothing else."""

import pytest
from dvc.repo import Repo

from tests.kit.repository import reproduced
from tools.tidy import tidy

STAGE = """\
stages:
  a:
    cmd: mkdir -p data && echo a > data/a.txt
    outs: [data/a.txt]
"""


@pytest.fixture
def orphaned(tmp_path, monkeypatch):
    """A file that a stage wrote, which dvc.yaml then lost."""
    reproduced(tmp_path, monkeypatch, STAGE)
    (tmp_path / ".git").mkdir()
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    return tmp_path / "data/a.txt"


def test_a_file_whose_content_is_in_the_cache_goes(orphaned, tmp_path):
    assert tidy(tmp_path) == "Tidied: 1 file(s) and 1 entries of dvc.lock that no stage declares any more."
    assert not orphaned.exists()
    (tmp_path / "dvc.yaml").write_text(STAGE)
    with Repo() as repo:
        repo.reproduce()
    assert orphaned.read_text() == "a\n"


def test_a_file_that_was_changed_is_kept(orphaned, tmp_path):
    orphaned.unlink()  # a link to the cache, perhaps
    orphaned.write_text("a result of one's own\n")
    said = tidy(tmp_path)
    assert said.startswith("Tidied: 0 file(s) and 1 entries") and said.endswith("data/a.txt.")
    assert orphaned.read_text() == "a result of one's own\n"


def test_a_file_that_the_cache_lacks_is_kept(orphaned, tmp_path):
    next(tmp_path.glob(".dvc/cache/files/md5/*/*")).unlink()
    assert "Kept" in tidy(tmp_path) and orphaned.exists()
