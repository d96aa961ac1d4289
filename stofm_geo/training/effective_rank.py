"""Effective rank of embeddings, which detects collapse in self-supervised training."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class EffectiveRank(Metric):
    r"""Effective rank and median standard deviation of vectors, in one pass.

    The effective rank is :math:`\exp(-\sum_i p_i \log p_i)` with :math:`p` the
    eigenvalues of the covariance, divided by their sum (Roy & Vetterli 2007): ``D`` for an
    isotropic distribution, 1 on a line, 0 if all vectors are equal.

    Args:
        channels: Size ``D`` of the vectors.
    """

    count: Tensor
    total: Tensor
    gram: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        zeros = torch.zeros(channels, dtype=torch.float64)
        self.add_state("count", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("total", zeros, "sum")
        self.add_state("gram", zeros.diag(), "sum")

    def update(self, z: Tensor) -> None:
        """Add vectors ``[n, D]``."""
        z = z.detach().double()
        self.count += len(z)
        self.total += z.sum(dim=0)
        self.gram += z.t() @ z

    def compute(self) -> dict[str, Tensor]:
        """Return ``effective_rank`` and ``std``, the median standard deviation of columns."""
        mean = self.total / self.count
        covariance = self.gram / self.count - torch.outer(mean, mean)
        share = torch.linalg.eigvalsh(covariance).clamp_min(0)
        share = share / share.sum().clamp_min(1e-30)
        rank = torch.special.entr(share).sum().exp() * (share.sum() > 0.5)
        std = covariance.diagonal().clamp_min(0).sqrt().median()
        return {"effective_rank": rank.float(), "std": std.float()}
