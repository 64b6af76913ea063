"""Encoders that are kept: who asks for the same one at the same time gets the one that is trained."""

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sslood.core.files import save_tensors
from sslood.nets.selfsup import kept


@pytest.fixture
def trainings(tmp_path, monkeypatch):
    """Return a list with the name of each training; one takes a moment and writes an empty model."""
    found = []

    class Trained(tuple):
        def summary(self):
            return "trained"

    def pretrain(plan, name, **how):
        found.append(name)
        time.sleep(0.2)
        return Trained()

    def finish(out, out_curves):
        save_tensors(out, {"w": np.zeros(1)}, kind="model", metadata={"name": "kept"})
        Path(out_curves).write_text("epoch\n")

    monkeypatch.setattr(kept, "identity_of", lambda *_: "a" * 64)
    monkeypatch.setattr(kept, "pretrain", pretrain)
    monkeypatch.setattr(kept, "finish", finish)
    monkeypatch.setattr(kept, "machine", lambda precision: SimpleNamespace(scratch=tmp_path))
    return found


def ask(name: str, said: list[str]) -> None:
    plan = SimpleNamespace(training=SimpleNamespace(precision="float64"))
    said.append(kept.kept_run(plan, name, arch="a", seed=0, id_set="digits", inputs="b")[1])


def test_two_stages_at_the_same_time_train_an_encoder_once(trainings):
    said: list[str] = []
    threads = [threading.Thread(target=ask, args=(name, said)) for name in ("one", "other")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trainings) == 1
    assert sorted(text.partition(", ")[2] for text in said) == [
        "",
        "pretrained before with the same settings",
    ]


def test_processes_that_train_together_do_not_wait_for_each_other(trainings, monkeypatch):
    """With a lock none but the first would ever come to the training."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    threads = [threading.Thread(target=ask, args=(name, [])) for name in ("first", "second")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(trainings) == ["first", "second"]
