r"""Multi-head attention over edges: one public function, its backends beside it."""

from __future__ import annotations

import torch
from torch import Tensor

from stofm_geo.ops.edge_attention import reference, scatter

# In order of preference: "auto" takes the first that can run on the tensors at hand.
_BACKENDS = {"scatter": scatter, "reference": reference}


def available_backends() -> dict[str, str | None]:
    """Say which backends work here.

    Returns:
        Backend name -> ``None`` where it works, else the reason why it does not.
    """
    return {name: backend.unavailable() for name, backend in _BACKENDS.items()}


def edge_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    edge_index: Tensor,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Attention of every node over its incoming edges.

    .. math::
        a_{ji} = \frac{q_i \cdot k_j}{\sqrt{C}} + b_{ji}, \qquad
        o_i = \sum_{j \to i} \operatorname{softmax}_j(a_{ji}) \, v_j

    Args:
        q: Queries of the destinations, ``[N, H, C]`` (nodes, heads, channels a head).
        k: Keys of the sources, ``[M, H, C]``; ``M`` may differ from ``N``.
        v: Values of the sources, ``[M, H, D]``.
        bias: Additive logits, ``[E, H]``; an edge with ``-inf`` is not attended to.
        edge_index: ``[2, E]``, int64, rows source and destination, in any order; an edge
            that is there twice counts twice.
        backend: ``"auto"``, or a name of :func:`available_backends`.

    Returns:
        The attended values :math:`o` ``[N, H, D]`` (zero where a node has no incoming edge), the
        logits :math:`a` ``[E, H]`` and their softmax ``[E, H]``, in the order of ``edge_index``.

    Raises:
        ValueError: Shapes that do not fit together, or an unknown backend.
        RuntimeError: A backend asked for by name that is not available here.
    """
    _check(q, k, v, bias, edge_index)
    return _select(backend).edge_attention(q, k, v, bias, edge_index)


def _select(name: str):  # type: ignore[no-untyped-def]
    if name == "auto":
        return next(backend for backend in _BACKENDS.values() if backend.unavailable() is None)
    if name not in _BACKENDS:
        raise ValueError(f"unknown backend {name!r}; choose 'auto' or one of {list(_BACKENDS)}")
    if (reason := _BACKENDS[name].unavailable()) is not None:
        raise RuntimeError(f"backend {name!r} is not available: {reason}")
    return _BACKENDS[name]


def _check(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, edge_index: Tensor) -> None:
    fits = q.dim() == k.dim() == v.dim() == 3
    if not fits or k.shape[:2] != v.shape[:2] or q.shape[1:] != k.shape[1:]:
        raise ValueError(
            "q must be [N, H, C], k [M, H, C] and v [M, H, D]; found "
            f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
        )
    if edge_index.dim() != 2 or edge_index.shape[0] != 2 or edge_index.dtype != torch.int64:
        raise ValueError(
            f"edge_index must be int64 [2, E]; found {edge_index.dtype} {list(edge_index.shape)}"
        )
    if bias.shape != (edge_index.shape[1], q.shape[1]):
        raise ValueError(
            f"bias must be [E, H] = [{edge_index.shape[1]}, {q.shape[1]}]; found {list(bias.shape)}"
        )
