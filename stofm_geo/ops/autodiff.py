"""Which kinds of differentiation are under way: kernels have formulas for reverse mode alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def needs_plain_operations() -> bool:
    """Return whether ``torch.func`` transforms or forward-mode AD are active.

    A fused kernel would lose tangents without a word, and has no batching rule; PyTorch's own
    operations have both.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_batched(tensor: Tensor) -> bool:
    """Return whether ``torch.func.vmap`` maps over the tensor."""
    return torch._C._are_functorch_transforms_active() and torch._C._functorch.is_batchedtensor(
        tensor
    )


def check_reverse_mode(name: str) -> None:
    """Refuse ``torch.func`` transforms and forward-mode AD.

    Args:
        name: What was asked for, for the message.

    Raises:
        RuntimeError: One of them is active.
    """
    if needs_plain_operations():
        raise RuntimeError(
            f"{name} supports neither torch.func transforms nor forward-mode AD; use "
            "backend='auto' or backend='reference'"
        )
