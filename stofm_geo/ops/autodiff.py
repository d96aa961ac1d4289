"""Which transforms are under way: kernels have formulas for reverse-mode AD alone."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.autograd import forward_ad


def needs_plain_operations() -> bool:
    """Return whether ``torch.func`` transforms, forward-mode AD or ``torch.jit.trace`` are active.

    A fused kernel would lose tangents without a word, has no batching rule, and is a constant to
    the tracer; PyTorch's own operations have all three.
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
    """Refuse ``torch.func`` transforms, forward-mode AD and ``torch.jit.trace``.

    Args:
        name: What was asked for, for the message.

    Raises:
        RuntimeError: One of them is active.
    """
    if needs_plain_operations():
        raise RuntimeError(
            f"{name} supports neither torch.func transforms nor forward-mode AD nor "
            "torch.jit.trace; use backend='auto' or backend='reference'"
        )
