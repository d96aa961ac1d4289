r"""Multi-head attention over edges: one public function and its backends."""

from __future__ import annotations

import warnings
from functools import cache

import torch
from torch import Tensor

from stofm_geo.ops.autodiff import check_reverse_mode, needs_plain_operations
from stofm_geo.ops.edge_attention import fused, reference, scatter
from stofm_geo.ops.graph import EdgeGraph

# In order of preference: "auto" selects the first that supports the given tensors.
_BACKENDS = {**fused.KERNELS, "scatter": scatter, "reference": reference}
BACKENDS = tuple(_BACKENDS)


def available_backends() -> dict[str, str | None]:
    """Return the backends of :func:`edge_attention`, and why some are not available.

    Returns:
        Backend name -> ``None`` where it is available, else the reason.

    Examples:
        >>> from stofm_geo.ops import available_backends
        >>> backends = available_backends()
        >>> "cpu" in backends, backends["reference"] is None
        (True, True)
    """
    return {name: backend.unavailable() for name, backend in _BACKENDS.items()}


def edge_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    graph: EdgeGraph | Tensor,
    *,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Attend from every node to the sources of its incoming edges.

    .. math::
        a_{ji} = \frac{q_i \cdot k_j}{\sqrt{C}} + b_{ji}, \qquad
        l_i = \log \sum_{j \to i} e^{a_{ji}}, \qquad
        o_i = \sum_{j \to i} e^{a_{ji} - l_i} \, v_j

    Args:
        q: Queries of the destinations, ``[N, H, C]`` (nodes, heads, channels a head).
        k: Keys of the sources, ``[M, H, C]``; ``M`` may differ from ``N``.
        v: Values of the sources, ``[M, H, D]``.
        bias: Bias of the logits, ``[E, H]``; ``-inf`` masks an edge.
        graph: ``[2, E]`` int64, rows source and destination, in any order; a repeated edge counts
            repeatedly. Or an :class:`~stofm_geo.ops.EdgeGraph`, built once for several calls.
        backend: A name of :func:`available_backends`, or ``"auto"`` (default): the fastest that
            supports these tensors. Under ``torch.func`` transforms, forward-mode AD or
            ``torch.jit.trace``, for which the kernels have no formulas, that is ``"reference"``.

    Returns:
        The attended values :math:`o` ``[N, H, D]``, the logits :math:`a` ``[E, H]`` and their
        log-sum-exp :math:`l` ``[N, H]``, all with gradients of any order. Where a node has no edge,
        or all are masked, :math:`o` and :math:`l` are 0.

    Raises:
        ValueError: Shapes do not match, or the backend is unknown.
        IndexError: An edge names a node that does not exist.
        RuntimeError: The named backend is not available, or not under the active transforms.

    Examples:
        >>> import torch
        >>> from stofm_geo.ops import edge_attention
        >>> q = k = torch.zeros(3, 1, 2)  # alike, so that the weights of a node are equal
        >>> v = torch.tensor([1.0, 3.0, 5.0]).view(3, 1, 1)
        >>> edge_index = torch.tensor([[1, 2], [0, 0]])
        >>> out, logits, lse = edge_attention(q, k, v, torch.zeros(2, 1), edge_index)
        >>> out.flatten().round(decimals=4).tolist()
        [4.0, 0.0, 0.0]
    """
    if not isinstance(graph, EdgeGraph):
        graph = EdgeGraph(graph, q.size(0), k.size(0))
    _check(q, k, v, bias, graph)
    name = _select(backend, q)
    if name in fused.KERNELS:
        return fused.edge_attention(q, k, v, bias, graph, name)
    return _BACKENDS[name].edge_attention(q, k, v, bias, graph)


def _select(name: str, q: Tensor) -> str:
    if name == "auto" and needs_plain_operations():
        return "reference"
    if name == "auto":
        name = next(name for name, backend in _BACKENDS.items() if backend.unavailable(q) is None)
        if name not in fused.KERNELS and not torch.compiler.is_compiling():
            reasons = {kind: kernel.unavailable(q) for kind, kernel in fused.KERNELS.items()}
            _warn_of_fallback(
                name, "; ".join(f"{kind}: {reason}" for kind, reason in reasons.items())
            )
        return name
    if name not in _BACKENDS:
        raise ValueError(f"unknown backend {name!r}; choose 'auto' or one of {list(_BACKENDS)}")
    if (reason := _BACKENDS[name].unavailable(q)) is not None:
        raise RuntimeError(f"backend {name!r} is not available: {reason}")
    if name != "reference":
        check_reverse_mode(f"backend {name!r}")
    return name


@cache
def _warn_of_fallback(name: str, reasons: str) -> None:
    """Warn once that there is no fused kernel."""
    warnings.warn(f"edge attention falls back on {name!r} ({reasons})", stacklevel=4)


def _check(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, graph: EdgeGraph) -> None:
    fits = q.dim() == k.dim() == v.dim() == 3
    if not fits or k.shape[:2] != v.shape[:2] or q.shape[1:] != k.shape[1:]:
        raise ValueError(
            "q must be [N, H, C], k [M, H, C] and v [M, H, D]; found "
            f"q {list(q.shape)}, k {list(k.shape)}, v {list(v.shape)}"
        )
    if graph.num_dst != q.size(0) or graph.num_src != k.size(0):
        raise ValueError(
            f"the graph is of {graph.num_src} sources and {graph.num_dst} destinations; found "
            f"q {list(q.shape)}, k {list(k.shape)}"
        )
    edges = graph.edge_index.size(1)
    if bias.dim() != 2 or bias.size(0) != edges or bias.size(1) != q.size(1):
        raise ValueError(f"bias must be [E, H] = [{edges}, {q.size(1)}]; found {list(bias.shape)}")
