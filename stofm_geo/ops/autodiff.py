"""Detection of active transforms: the kernels have formulas for reverse-mode AD only."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def needs_plain_operations() -> bool:
    """Return whether ``torch.func`` transforms, forward-mode AD or ``torch.jit.trace`` are active.

    A fused kernel would silently drop tangents, has no batching rule, and is a constant to the
    tracer; PyTorch's own operations support all three.
    """
    return (
        torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or torch.jit.is_tracing()
    )


def is_batched(tensor: Tensor) -> bool:
    """Return whether ``torch.func.vmap`` maps over the tensor."""
    return torch._C._are_functorch_transforms_active() and torch._C._functorch.is_batchedtensor(
        tensor
    )


def check_reverse_mode(name: str) -> None:
    """Check that neither ``torch.func`` transforms nor forward-mode AD nor tracing are active.

    Args:
        name: What does not support them, for the message.

    Raises:
        RuntimeError: One of them is active.
    """
    if needs_plain_operations():
        raise RuntimeError(
            f"{name} supports neither torch.func transforms nor forward-mode AD nor "
            "torch.jit.trace; use backend='auto' or backend='reference'"
        )
