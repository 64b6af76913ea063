"""`make verify` finds what a power cut leaves: files of the right size and time that hold something else."""

import os

import pytest
from dvc.repo import Repo

from sslood.core.errors import InputError
from tests.kit.repository import reproduced
from tools.verify import verify

DVC_YAML = """\
stages:
  a:
    cmd: echo a > a.txt
    outs: [a.txt]
  b:
    cmd: mkdir -p b && cp a.txt b/one && echo b > b/two
    deps: [a.txt]
    outs: [b]
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    reproduced(tmp_path, monkeypatch, DVC_YAML)
    return tmp_path


def zero(path):
    """Fill a file with zeros; its size and time stay as they are."""
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(bytes(before.st_size))
    path.chmod(before.st_mode & 0o777)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def cached(project, text):
    return next(file for file in project.glob(".dvc/cache/files/md5/*/*") if file.read_text() == text)


def repro() -> list[str]:
    with Repo() as repo:
        return [stage.addressing for stage in repo.reproduce()]


def test_what_is_whole_passes(project):
    assert "is as dvc.lock says" in verify(project)


def test_dvc_alone_does_not_notice(project):
    zero(project / "a.txt")
    assert repro() == []


@pytest.mark.parametrize("name", ["a.txt", "b/two"])
def test_a_zeroed_output_is_named_and_restored_from_the_cache(project, name):
    text = (project / name).read_text()
    zero(project / name)
    with pytest.raises(InputError, match=rf"good copies are there; say .*\n  {name} \([ab]\)$"):
        verify(project)
    assert name in verify(project, fix=True)
    assert (project / name).read_text() == text and repro() == [] and "is as" in verify(project)


def test_a_zeroed_copy_in_the_cache_is_restored_from_the_output(project):
    copy = cached(project, "b\n")
    zero(copy)
    assert "good copies are there" in verify(project, fix=True)
    assert copy.read_text() == "b\n" and repro() == [] and "is as" in verify(project)


@pytest.mark.parametrize("spoilt", ["a.txt", "b/one"])
def test_of_two_outputs_with_equal_bytes_either_restores_their_copy_in_the_cache(project, spoilt):
    for path in (cached(project, "a\n"), project / spoilt):
        zero(path)
    assert "good copies are there" in verify(project, fix=True)
    assert (project / spoilt).read_text() == cached(project, "a\n").read_text() == "a\n"
    assert repro() == [] and "is as" in verify(project)


def test_what_has_no_good_copy_names_the_stage_to_run_again(project):
    for path in (cached(project, "b\n"), project / "b/two"):
        zero(path)
    with pytest.raises(InputError, match=r"`make repro` has to run again: b; say"):
        verify(project)
    verify(project, fix=True)
    assert repro() == ["b"]
    assert (project / "b/two").read_text() == "b\n" and "is as" in verify(project)


def test_a_zeroed_listing_of_a_folder_is_found(project):
    listing = next(project.glob(".dvc/cache/files/md5/*/*.dir"))
    zero(listing)
    with pytest.raises(InputError, match=r"run again: b; say"):
        verify(project)
    verify(project, fix=True)
    repro()
    assert "is as" in verify(project)


def test_without_a_lock_it_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match="dvc.lock: no such file; run `make repro`"):
        verify(tmp_path)
