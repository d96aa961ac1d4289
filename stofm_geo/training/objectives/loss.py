"""What a loss is: sums, so that batches of any sizes, on any ranks, add up."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class Loss(NamedTuple):
    """A sum of squared errors, that of a baseline, and the number of values."""

    error: Tensor
    baseline: Tensor
    count: Tensor
