"""Random streams: stable for ever, apart from each other."""

import numpy as np

from sslood.core.seeding import numpy_stream, stream_seed


def test_streams_are_stable_across_versions():
    assert stream_seed(0, "augment", 3) == 1689123548067445645


def test_streams_differ_by_seed_name_and_number():
    seeds = {stream_seed(s, name, n) for s in range(5) for name in ("a", "b") for n in range(100)}
    assert len(seeds) == 1000 and all(0 <= seed < 2**63 for seed in seeds)


def test_streams_are_uncorrelated():
    draws = np.stack([numpy_stream(0, "noise", n).standard_normal(20_000) for n in range(6)])
    off_diagonal = np.corrcoef(draws)[~np.eye(6, dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(20_000)
