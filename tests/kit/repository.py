"""A DVC repository of a few stages, whose outputs are in the cache."""

from dvc.repo import Repo


def reproduced(folder, monkeypatch, stages: str) -> None:
    """Make `folder` a repository with this dvc.yaml, without git, run its stages, and stay there."""
    (folder / "dvc.yaml").write_text(stages)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(folder.parent / "site"))
    with Repo.init(no_scm=True) as repo:
        repo.reproduce()
