"""Self-supervised losses beside lightly's: forward and backward on one core, in one run.

    python -m benchmarks.ssl_losses

Prints the median time of both at batch 512 and 2048 dimensions, and the ratio (peer / ours). Rounds
alternate between the two, so that what else the machine does meets both. Values and gradients of the two
agree to 1e-10 (tests/nets/selfsup/test_lightly.py).
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch
from lightly.loss.barlow_twins_loss import BarlowTwinsLoss
from lightly.loss.ntx_ent_loss import NTXentLoss
from lightly.loss.vicreg_loss import VICRegLoss
from torch import Tensor

from sslood.nets.selfsup.losses.barlow_twins import barlow_twins
from sslood.nets.selfsup.losses.contrastive import nt_xent
from sslood.nets.selfsup.losses.vicreg import vicreg

BATCH, DIMENSIONS, ROUNDS = 512, 2048, 9
Loss = Callable[[Tensor, Tensor], Tensor]

# name -> (ours, lightly's, dimensions of the projection)
PAIRS: dict[str, tuple[Loss, Loss, int]] = {
    "nt_xent": (lambda a, b: nt_xent(a, b, 0.2)[0], NTXentLoss(0.2), 128),
    "barlow_twins": (lambda a, b: barlow_twins(a, b, 0.005)[0], BarlowTwinsLoss(0.005), DIMENSIONS),
    "vicreg": (lambda a, b: vicreg(a, b, 25, 25, 1)[0], VICRegLoss(), DIMENSIONS),
}


def seconds(loss: Loss, z: Sequence[Tensor]) -> float:
    """Return the time of one forward and backward."""
    start = time.perf_counter()
    torch.autograd.grad(loss(*z), z)
    return time.perf_counter() - start


def compare(ours: Loss, peer: Loss, dimensions: int, rounds: int = ROUNDS) -> tuple[float, float]:
    """Return the median seconds (ours, peer) over alternating rounds, after one that is not counted."""
    generator = torch.Generator().manual_seed(0)
    z = [torch.randn(BATCH, dimensions, generator=generator).requires_grad_() for _ in range(2)]
    times = [(seconds(ours, z), seconds(peer, z)) for _ in range(rounds + 1)][1:]
    return tuple(map(statistics.median, zip(*times, strict=True)))


def run(rounds: int = ROUNDS) -> list[dict[str, object]]:
    """Return a row per loss: name, batch, dimensions, rounds, ours and peer in ms, ratio."""
    rows = []
    for name, (ours, peer, dimensions) in PAIRS.items():
        mine, theirs = compare(ours, peer, dimensions, rounds)
        shape = {"batch": BATCH, "dimensions": dimensions, "rounds": rounds}
        times = {"ours_ms": 1e3 * mine, "peer_ms": 1e3 * theirs, "ratio": theirs / mine}
        rows.append({"name": name, "peer": "lightly 1.6.0", **shape, **times})
    return rows


def main() -> None:
    torch.set_num_threads(1)
    print(f"losses, forward and backward, float32, one core, batch {BATCH}, median of {ROUNDS} rounds")
    for row in run():
        print(
            f"{row['name']:14} D {row['dimensions']:5}  ours {row['ours_ms']:8.1f} ms  "
            f"lightly {row['peer_ms']:8.1f} ms  ratio {row['ratio']:.2f}"
        )


if __name__ == "__main__":
    main()
