"""What ASH and SCALE share: the largest features of an image, and the factor from their sum."""

import torch
from torch import Tensor


def largest(rows: Tensor, pruned: float) -> Tensor:
    """Return bool [n, D]: all but the share `pruned` of smallest features of each row; ties by position."""
    count = max(1, rows.shape[1] - round(rows.shape[1] * pruned))
    lowest = rows.topk(count, dim=1).values[:, -1:]
    above, equal = rows > lowest, rows == lowest
    room = count - above.long().sum(1, keepdim=True)
    return above | (equal & (equal.long().cumsum(1) <= room))


def scaling(rows: Tensor, selected: Tensor) -> Tensor:
    """Return exp(s1 / s2) [n, 1], s1 the sum of a row, s2 that of its selected entries.

    Factor e where the selected entries sum to zero or less: after a ReLU, in rows of zeros alone.
    """
    return _ratio(rows, selected).exp()


def ratio(rows: Tensor, pruned: float) -> Tensor:
    """Return s1 / s2 [n, 1] of rows at least 0, s2 leaving out the share `pruned` of smallest features."""
    return _ratio(rows, largest(rows, pruned))


def _ratio(rows: Tensor, selected: Tensor) -> Tensor:
    """Return the sum of a row over that of its selected entries [n, 1]; 1 where these sum to 0 or less."""
    whole, part = rows.sum(1), torch.where(selected, rows, 0.0).sum(1)
    some = part > 0
    # the mean of the largest is at least that of all: the ratio never exceeds D / count
    return torch.where(some, whole / torch.where(some, part, 1.0), 1.0)[:, None]
