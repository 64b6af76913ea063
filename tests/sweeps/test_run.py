"""Sweeps side by side that have a cell in common."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from time import sleep
from types import SimpleNamespace

from sslood.sweeps import run

OWN = "f" * 32
KEYS = SimpleNamespace(of=lambda cell: OWN, trained=lambda cell: "inputs")


def cell():
    training = SimpleNamespace(precision="float32")
    return SimpleNamespace(plan=SimpleNamespace(training=training), arch={}, seed=0)


def test_a_cell_of_two_sweeps_is_recorded_once(monkeypatch, tmp_path):
    """The second waits for the first, whose embeddings lie in the folder that both would use."""
    monkeypatch.setenv("SSLOOD_SCRATCH", str(tmp_path))
    monkeypatch.setenv("SSLOOD_DEVICE", "cpu")
    monkeypatch.setattr(run, "kept_run", lambda *_, **__: (None, ""))
    both, evaluations = Barrier(2), []

    def evaluated(kept, seed, evaluation, images, folder):
        evaluations.append(folder)
        sleep(0.3)  # the time in which the other one starts
        return {"encoder": {}, "scores": {}, "left_out": {}}

    def record():
        both.wait()
        return run._record(cell(), None, SimpleNamespace(id_set="x"), KEYS)

    monkeypatch.setattr(run, "evaluated", evaluated)
    with ThreadPoolExecutor(2) as pool:
        found = [future.result() for future in [pool.submit(record) for _ in range(2)]]
    assert evaluations == [tmp_path / "sweeps" / OWN] and found[0] == found[1]
    assert (tmp_path / "sweeps" / f"{OWN}.json").is_file()
