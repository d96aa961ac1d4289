"""From the distance of two nodes to a bias of their attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class GaussianRadialBias(nn.Module):
    r"""The radial bias of SToFM (arXiv 2507.11588), one number a head.

    .. math::
        b(d) = W_2 \operatorname{ReLU}(W_1 \, g(a d + c)), \qquad
        g_k(y) = \frac{1}{\sqrt{2\pi}\, s_k} \exp\left(-\frac{(y - \mu_k)^2}{2 s_k^2}\right)

    with :math:`s_k = |\sigma_k| + 10^{-5}`. Where :math:`d = 0` the bias is 0.

    Args:
        heads: Number of heads ``H``.
        num_gaussians: Number of Gaussians ``K`` (default 32).
        max_distance: Distance up to which the Gaussians are spread at the start, denser at short
            range, in the units of the distances (default 30).
    """

    def __init__(self, heads: int, num_gaussians: int = 32, max_distance: float = 30.0) -> None:
        super().__init__()
        self.heads = heads
        self.num_gaussians = num_gaussians
        self.max_distance = max_distance
        self.scale = nn.Parameter(torch.empty(1))
        self.shift = nn.Parameter(torch.empty(1))
        self.mean = nn.Parameter(torch.empty(num_gaussians))
        self.std = nn.Parameter(torch.empty(num_gaussians))
        self.hidden = nn.Linear(num_gaussians, num_gaussians)
        self.out = nn.Linear(num_gaussians, heads)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.shift)
        knots = torch.linspace(0, 1, self.num_gaussians + 1) ** 2 * self.max_distance
        with torch.no_grad():
            self.mean.copy_(knots[:-1])
            # A Gaussian a few knots wide, so that the sum of them is smooth.
            self.std.copy_((knots[1:] - knots[:-1]).clamp_min(0.5))
        self.hidden.reset_parameters()
        self.out.reset_parameters()

    def forward(self, distance: Tensor) -> Tensor:
        """``[E]`` distances to ``[E, H]`` biases."""
        std = self.std.abs() + 1e-5
        y = self.scale * distance[:, None] + self.shift
        gaussians = (-0.5 * ((y - self.mean) / std).square()).exp() / (math.sqrt(2 * math.pi) * std)
        bias = self.out(self.hidden(gaussians).relu())
        return bias.masked_fill((distance == 0)[:, None], 0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(heads={self.heads}, num_gaussians={self.num_gaussians})"
