"""Radial functions: attention biases and weights of directions that depend on distance."""

from __future__ import annotations

import math

import torch
from e3nn.math import soft_one_hot_linspace
from torch import Tensor, nn
from torch_geometric.nn.inits import reset


class GaussianRadial(nn.Module):
    r"""The radial functions of SToFM (arXiv 2507.11588).

    .. math::
        f(d) = [d > 0] \big(W_2 \operatorname{ReLU}(W_1 \, g(a d + c) + b_1) + b_2\big), \qquad
        g_k(y) = \frac{1}{\sqrt{2\pi}\, s_k} \exp\left(-\frac{(y - \mu_k)^2}{2 s_k^2}\right)

    with :math:`s_k = |\sigma_k| + 10^{-5}` and :math:`[d > 0]` 0 where
    two nodes coincide, or one has no position, and else 1.

    Args:
        out_channels: Number of functions (for a bias, the number of heads).
        num_gaussians: Number of Gaussians ``K`` (default 32).
        max_distance: Largest initial mean of the Gaussians, which are denser at short range, in the
            units of the distances (default 30).

    Examples:
        >>> import torch
        >>> from stofm_geo.nn import GaussianRadial
        >>> radial = GaussianRadial(8)
        >>> radial(torch.tensor([0.0, 1.0, 5.0])).shape
        torch.Size([3, 8])
        >>> radial(torch.zeros(1)).abs().max().item()
        0.0
    """

    def __init__(
        self, out_channels: int, num_gaussians: int = 32, max_distance: float = 30.0
    ) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.num_gaussians = num_gaussians
        self.max_distance = max_distance
        self.scale = nn.Parameter(torch.empty(1))
        self.shift = nn.Parameter(torch.empty(1))
        self.mean = nn.Parameter(torch.empty(num_gaussians))
        self.std = nn.Parameter(torch.empty(num_gaussians))
        self.hidden = nn.Linear(num_gaussians, num_gaussians)
        self.out = nn.Linear(num_gaussians, out_channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset all learnable parameters."""
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.shift)
        knots = torch.linspace(0, 1, self.num_gaussians + 1) ** 2 * self.max_distance
        with torch.no_grad():
            self.mean.copy_(knots[:-1])
            # Gaussians are a few knots wide, so that their sum is smooth.
            self.std.copy_((knots[1:] - knots[:-1]).clamp_min(0.5))
        self.hidden.reset_parameters()
        self.out.reset_parameters()

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate the functions at distances ``[E]``, ``[E, out_channels]``."""
        value = self.forward_scaled(self.scale * distance + self.shift)
        return value.masked_fill((distance == 0)[:, None], 0)

    def forward_scaled(self, y: Tensor) -> Tensor:
        """Evaluate the functions at scaled and shifted distances ``[E]``, ``[E, out_channels]``."""
        std = self.std.abs() + 1e-5
        power = -0.5 * ((y[:, None] - self.mean) / std).square()
        # Clamped, since e^-80 is negligible, and denormal numbers below e^-87 are 8 times as slow.
        gaussians = power.clamp_min(-80).exp() / (math.sqrt(2 * math.pi) * std)
        return self.out(self.hidden(gaussians).relu())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.out_channels}, num_gaussians={self.num_gaussians})"


class SoftOneHotRadial(nn.Module):
    r"""Radial functions on e3nn's ``soft_one_hot_linspace`` bases, with a smooth cutoff.

    The bases enter a network without biases, which is 0 at distance 0 and beyond the cutoff. As an
    attention bias it has an envelope: the weight of an edge of length :math:`d` is multiplied by
    :math:`u(1 - d/c) / u(1)`, where :math:`u(t) = e^{-1/(10 t)}` for :math:`t > 0`, else 0, is
    e3nn's ``soft_unit_step(10 t)``, as in e3nn's equivariant Transformer. An edge at the cutoff has
    no effect. Since weights sum to 1, a node with a single edge gives it weight 1 up to the cutoff.

    Args:
        out_channels: Number of functions (for a bias, the number of heads).
        cutoff: Distance from which on two nodes do not interact.
        num_basis: Number of bases (default 16).
        basis: ``"smooth_finite"`` (default), ``"cosine"`` or ``"fourier"``.

    Raises:
        ValueError: ``cutoff`` is not positive, or ``basis`` is unknown.

    Examples:
        >>> import torch
        >>> from stofm_geo.nn import SoftOneHotRadial
        >>> radial = SoftOneHotRadial(8, cutoff=5.0)
        >>> radial(torch.tensor([1.0, 4.0, 6.0])).shape
        torch.Size([3, 8])
        >>> radial.log_envelope(torch.tensor([6.0])).item()  # beyond the cutoff: no attention
        -inf
    """

    def __init__(
        self,
        out_channels: int,
        cutoff: float,
        num_basis: int = 16,
        basis: str = "smooth_finite",
    ) -> None:
        super().__init__()
        if not 0 < cutoff < math.inf:
            raise ValueError(f"cutoff must be positive and finite; found {cutoff}")
        if basis not in (known := ("smooth_finite", "cosine", "fourier")):
            raise ValueError(f"unknown basis {basis!r}; choose one of {list(known)}")
        self.out_channels = out_channels
        self.cutoff = cutoff
        self.num_basis = num_basis
        self.basis = basis
        self.net = nn.Sequential(
            nn.Linear(num_basis, num_basis, bias=False),
            nn.SiLU(),
            nn.Linear(num_basis, out_channels, bias=False),
        )

    def reset_parameters(self) -> None:
        """Reset all learnable parameters."""
        reset(self.net)

    def forward(self, distance: Tensor) -> Tensor:
        """Evaluate the functions at distances ``[E]``, ``[E, out_channels]``."""
        basis = soft_one_hot_linspace(
            distance, 0.0, self.cutoff, self.num_basis, self.basis, cutoff=True
        )
        return self.net(basis)

    def log_envelope(self, distance: Tensor) -> Tensor:
        """Return the log of the envelope at distances ``[E]``; ``-inf`` from the cutoff on."""
        left = 1 - distance / self.cutoff
        inside = left > 0
        return (0.1 - 0.1 / torch.where(inside, left, 1)).masked_fill(~inside, -torch.inf)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.out_channels}, cutoff={self.cutoff}, "
            f"num_basis={self.num_basis}, basis={self.basis!r})"
        )
