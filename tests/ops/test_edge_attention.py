from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor

from stofm_geo import ops
from stofm_geo.ops import available_backends
from stofm_geo.ops.edge_attention import scatter

BACKENDS = ["cpu", "reference", "scatter"]


def edge_attention(*args: Tensor, backend: str = "auto") -> tuple[Tensor, Tensor, Tensor]:
    """Output, logits, and the weights that the log-sum-exp makes of them."""
    out, logits, lse = ops.edge_attention(*args, backend=backend)
    alpha = (logits - lse.index_select(0, args[4][1])).exp()
    return out, logits, alpha.to(out.dtype)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    if (reason := available_backends()[request.param]) is not None:
        pytest.skip(reason)
    return request.param


def example(
    n: int = 7,
    m: int = 7,
    edges: int = 30,
    heads: int = 3,
    channels: int = 4,
    values: int | None = None,
    seed: int = 0,
) -> tuple[Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    values = channels if values is None else values
    q = torch.randn(n, heads, channels, generator=draw, dtype=torch.float64)
    k = torch.randn(m, heads, channels, generator=draw, dtype=torch.float64)
    v = torch.randn(m, heads, values, generator=draw, dtype=torch.float64)
    bias = torch.randn(edges, heads, generator=draw, dtype=torch.float64)
    src = torch.randint(m, (edges,), generator=draw)
    dst = torch.randint(n, (edges,), generator=draw)
    return q, k, v, bias, torch.stack([src, dst])


def slow(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, edge_index: Tensor) -> tuple[Tensor, ...]:
    """The formula, a node and a head at a time."""
    out = q.new_zeros(*q.shape[:2], v.shape[2]) + 0 * q.sum()
    logits, alpha = torch.zeros_like(bias), torch.zeros_like(bias)
    for i in range(q.shape[0]):
        edges = (edge_index[1] == i).nonzero().view(-1)
        src = edge_index[0, edges]
        for h in range(q.shape[1]):
            logit = k[src, h] @ q[i, h] / q.shape[2] ** 0.5 + bias[edges, h]
            logits[edges, h] = logit
            if (logit > -torch.inf).any():
                alpha[edges, h] = logit.softmax(0)
                out[i, h] = alpha[edges, h] @ v[src, h]
    return out, logits, alpha


CASES = {
    "usual": {},
    "dense": {"edges": 200},
    "bipartite": {"n": 4, "m": 9},
    "isolated nodes": {"n": 20, "m": 20, "edges": 6},
    "one head": {"heads": 1},
    "one channel": {"channels": 1},
    "wide values": {"values": 9},
    "narrow values": {"channels": 8, "values": 1},
    "no values": {"values": 0},
    "one edge": {"edges": 1},
    "one node": {"n": 1, "m": 1, "edges": 1},
    "no edges": {"edges": 0},
    "no nodes": {"n": 0, "m": 0, "edges": 0},
}


@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_those_of_the_formula(backend: str, case: str) -> None:
    if case == "no nodes":
        q, k, v, bias, edge_index = (t[:0] for t in example(edges=1))
        edge_index = torch.empty(2, 0, dtype=torch.long)
    else:
        q, k, v, bias, edge_index = example(**CASES[case])
    results = []
    for attend in (slow, lambda *args: edge_attention(*args, backend=backend)):
        leaves = [t.clone().requires_grad_() for t in (q, k, v, bias)]
        out, logits, alpha = attend(*leaves, edge_index)
        (out.sin().sum() + logits.cos().sum() + alpha.exp().sum()).backward()
        parts = [out.detach(), logits.detach(), alpha.detach()]
        results.append([*parts, *(leaf.grad for leaf in leaves)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(other, torch.zeros_like(other) if one is None else one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 8, 12, 16])
def test_any_number_of_heads_in_vectors_of_eight(
    backend: str, heads: int, dtype: torch.dtype
) -> None:
    """Rows of all lengths, beside the formula in double precision; large logits, hidden edges."""
    draw = torch.Generator().manual_seed(1)
    q, k, v, bias, edges = example(300, 300, 12_000, heads)
    edges[1, :6_000] //= 30  # some nodes have hundreds of edges, one has them hidden
    bias = torch.where(torch.rand(bias.shape, generator=draw) < 0.1, -torch.inf, 30 * bias)
    bias[edges[1] == 20] = -torch.inf
    results = []
    for kind, name in ((torch.float64, "reference"), (dtype, backend)):
        leaves = [t.to(kind, copy=True).requires_grad_() for t in (q, k, v, bias)]
        out, logits, lse = ops.edge_attention(*leaves, edges, backend=name)
        (out.sin().sum() + lse.cos().sum() + logits[logits > -torch.inf].cos().sum()).backward()
        results.append([out.detach(), logits.detach(), lse.detach(), *(x.grad for x in leaves)])
    assert not results[1][0][20].any() and not results[1][2][20].any()
    scale = 1e-4 if dtype == torch.float32 else 1e-11
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=scale, atol=scale)


def test_on_all_pairs_it_is_torchs_attention(backend: str) -> None:
    q, k, v, _, _ = example()
    mask = torch.randn(3, 7, 7, dtype=torch.float64)
    dst, src = torch.cartesian_prod(torch.arange(7), torch.arange(7)).t()
    edges = torch.stack([src, dst])
    out, _, _ = edge_attention(q, k, v, mask[:, dst, src].t(), edges, backend=backend)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(t.transpose(0, 1) for t in (q, k, v)), attn_mask=mask
    )
    torch.testing.assert_close(out, expected.transpose(0, 1))


def test_what_is_not_an_edge_is_masked(backend: str) -> None:
    q, k, v, _, _ = example()
    joined = torch.rand(7, 7) < 0.5
    joined.fill_diagonal_(True)
    dst, src = joined.nonzero().t()
    bias = torch.randn(3, 7, 7, dtype=torch.float64)
    out, _, _ = edge_attention(
        q, k, v, bias[:, dst, src].t(), torch.stack([src, dst]), backend=backend
    )
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(t.transpose(0, 1) for t in (q, k, v)), attn_mask=bias.masked_fill(~joined, -torch.inf)
    )
    torch.testing.assert_close(out, expected.transpose(0, 1))


@pytest.mark.parametrize("values", [0, 3, 5])
def test_gradcheck(backend: str, values: int) -> None:
    q, k, v, bias, edge_index = example(n=4, m=5, edges=9, heads=2, channels=3, values=values)
    leaves = [t.requires_grad_() for t in (q, k, v, bias)]

    def attend(*leaves: Tensor) -> tuple[Tensor, ...]:
        return edge_attention(*leaves, edge_index, backend=backend)

    assert torch.autograd.gradcheck(attend, leaves)


def test_weights_sum_to_one_over_the_edges_of_a_node(backend: str) -> None:
    q, k, v, bias, edge_index = example(n=20, m=20, edges=50)
    out, _, alpha = edge_attention(q, k, v, 10 * bias, edge_index, backend=backend)
    total = torch.zeros(20, 3, dtype=torch.float64).index_add(0, edge_index[1], alpha)
    some = torch.isin(torch.arange(20), edge_index[1])
    torch.testing.assert_close(total, some[:, None].double().expand(20, 3))
    message = alpha[..., None] * v[edge_index[0]]
    torch.testing.assert_close(out, torch.zeros_like(out).index_add(0, edge_index[1], message))


def test_nodes_without_edges_get_zero(backend: str) -> None:
    q, k, v, bias, edge_index = example(n=20, m=20, edges=6)
    out, _, _ = edge_attention(q, k, v, bias, edge_index, backend=backend)
    alone = ~torch.isin(torch.arange(20), edge_index[1])
    assert (out[alone] == 0).all() and (out[~alone] != 0).any()


def test_an_edge_twice_counts_twice(backend: str) -> None:
    q, k, v, bias, edge_index = example()
    once = edge_attention(q, k, v, bias, edge_index, backend=backend)[0]
    both = edge_attention(q, k, v, bias.repeat(2, 1), edge_index.repeat(1, 2), backend=backend)[0]
    torch.testing.assert_close(once, both)
    first = edge_index[1, 0]
    heavier = torch.cat([bias, bias[:1]]), torch.cat([edge_index, edge_index[:, :1]], dim=1)
    log2 = bias.clone()
    log2[0] += torch.log(torch.tensor(2.0))
    torch.testing.assert_close(
        edge_attention(q, k, v, *heavier, backend=backend)[0][first],
        edge_attention(q, k, v, log2, edge_index, backend=backend)[0][first],
    )


def test_a_hub_of_many_edges_and_huge_logits(backend: str) -> None:
    q, k, v, bias, edge_index = example(n=3, m=3000, edges=20_000, heads=2)
    edge_index[1] = 1
    bias = bias + torch.tensor([800.0, -800.0])
    out, _, _ = edge_attention(
        q.float(), k.float(), v.float(), bias.float(), edge_index, backend=backend
    )
    expected, _, _ = slow(q, k, v, bias, edge_index)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out.double(), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("dead", [0, 1])
def test_a_bias_of_minus_infinity_hides_an_edge(backend: str, dead: int) -> None:
    q, k, v, _, _ = example()
    edge_index = torch.tensor([[2, 3, 4], [0, 0, 0]])
    bias = torch.zeros(3, 3, dtype=torch.float64)
    bias[dead] = -torch.inf
    keep = [i for i in range(3) if i != dead]
    torch.testing.assert_close(
        edge_attention(q, k, v, bias, edge_index, backend=backend)[0],
        edge_attention(q, k, v, bias[keep], edge_index[:, keep], backend=backend)[0],
    )


def test_where_all_edges_are_hidden_nothing_is_attended_to_and_nothing_is_nan(
    backend: str,
) -> None:
    q, k, v, bias, edge_index = example(n=9, m=9, edges=40)
    edge_index[1, :3] = 4
    bias[edge_index[1] == 4] = -torch.inf
    bias[edge_index[1] == 5, 1] = -torch.inf  # in one head alone
    bias[(edge_index[1] == 6).nonzero()[:2, 0]] = -torch.inf  # some of the edges
    results = []
    for attend in (slow, lambda *args: edge_attention(*args, backend=backend)):
        leaves = [t.clone().requires_grad_() for t in (q, k, v, bias)]
        out, logits, alpha = attend(*leaves, edge_index)
        assert (out[4] == 0).all() and (out[5, 1] == 0).all() and (out[5, 0] != 0).all()
        assert (alpha[bias == -torch.inf] == 0).all()
        (out.sin().sum() + alpha.exp().sum()).backward()
        grads = [leaf.grad for leaf in leaves]
        assert all(grad.isfinite().all() for grad in grads)
        results.append([out.detach(), logits.detach(), alpha.detach(), *grads])
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("hidden", [False, True])
def test_half_precision_with_a_bias_in_single(
    backend: str, dtype: torch.dtype, hidden: bool
) -> None:
    *tensors, bias, edge_index = (t.float() if t.is_floating_point() else t for t in example())
    if hidden:
        bias[edge_index[1] == 4] = -torch.inf
    halves = [t.to(dtype) for t in tensors]
    expected = edge_attention(*(t.float() for t in halves), bias, edge_index, backend=backend)
    out, logits, alpha = edge_attention(*halves, bias, edge_index, backend=backend)
    assert out.dtype == alpha.dtype == dtype and logits.dtype == torch.float32
    for one, other in zip((out, logits, alpha), expected, strict=True):
        torch.testing.assert_close(one.float(), other, atol=0.05, rtol=0.05)
    leaves = [t.requires_grad_() for t in (*halves, bias)]
    edge_attention(*leaves, edge_index, backend=backend)[0].sum().backward()
    assert all(leaf.grad.isfinite().all() and leaf.grad.dtype == leaf.dtype for leaf in leaves)


def test_order_and_numbering_do_not_matter(backend: str) -> None:
    q, k, v, bias, edge_index = example()
    out, logits, alpha = edge_attention(q, k, v, bias, edge_index, backend=backend)
    order = torch.randperm(30)
    again = edge_attention(q, k, v, bias[order], edge_index[:, order], backend=backend)
    torch.testing.assert_close(again, (out, logits[order], alpha[order]))
    node = torch.randperm(7)
    again = edge_attention(
        q[node], k[node], v[node], bias, node.argsort()[edge_index], backend=backend
    )
    torch.testing.assert_close(again, (out[node], logits, alpha))


def test_strided_inputs(backend: str) -> None:
    q, k, v, bias, edge_index = example()
    qkv = torch.stack([q, k, v], dim=1)
    strided = [*qkv.unbind(1), bias.t().contiguous().t(), edge_index.t().contiguous().t()]
    assert not any(t.is_contiguous() for t in strided)
    expected = edge_attention(q, k, v, bias, edge_index, backend=backend)
    torch.testing.assert_close(edge_attention(*strided, backend=backend), expected)


def test_inputs_stay_as_they_were(backend: str) -> None:
    tensors = example()
    before = [t.clone() for t in tensors]
    edge_attention(*tensors, backend=backend)
    assert all(map(torch.equal, tensors, before))


def test_same_input_same_bytes(backend: str) -> None:
    tensors = example(n=50, m=50, edges=600)
    first, second = (edge_attention(*tensors, backend=backend)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_auto_takes_a_backend_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = example()
    expected = slow(*tensors)
    torch.testing.assert_close(edge_attention(*tensors), expected)
    monkeypatch.setattr(scatter, "unavailable", lambda q=None: "gone")
    torch.testing.assert_close(edge_attention(*tensors, backend="auto"), expected)
    assert available_backends()["scatter"] == "gone"
    assert available_backends()["reference"] is None


def test_auto_says_once_that_no_kernel_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("stofm_geo.ops.edge_attention")
    module._warn_of_fallback.cache_clear()
    monkeypatch.setattr(module.fused.KERNELS["cpu"], "unavailable", lambda q=None: "no numba")
    with pytest.warns(UserWarning, match=r"falls back on '\w+' \(cpu: no numba; triton: ") as told:
        for _ in range(3):
            edge_attention(*example())
    assert len(told) == 1


def test_a_named_backend_that_is_not_there_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scatter, "unavailable", lambda q=None: "no wheel")
    with pytest.raises(RuntimeError, match="backend 'scatter' is not available: no wheel"):
        edge_attention(*example(), backend="scatter")


@pytest.mark.parametrize("name", ["triton?", "", "Reference", None])
def test_an_unknown_backend_lists_the_known(name: object) -> None:
    with pytest.raises(ValueError, match=rf"unknown backend {name!r}".replace("?", r"\?")) as error:
        edge_attention(*example(), backend=name)  # type: ignore[arg-type]
    assert all(known in str(error.value) for known in ("auto", *available_backends()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda q, k, v, b, e: (q[:, 0], k, v, b, e), r"found q \[7, 4\], k \[7, 3, 4\]"),
        (lambda q, k, v, b, e: (q, k[:, :2], v, b, e), r"k \[M, H, C\] and v \[M, H, D\]; found q"),
        (lambda q, k, v, b, e: (q, k, v[:5], b, e), r"k \[7, 3, 4\], v \[5, 3, 4\]"),
        (lambda q, k, v, b, e: (q, k, v[:, :2], b, e), r"v \[7, 2, 4\]"),
        (lambda q, k, v, b, e: (q, k, v[:, 0], b, e), r"v \[7, 4\]"),
        (lambda q, k, v, b, e: (q, k[..., :2], v[..., :2], b, e), "must be"),
        (lambda q, k, v, b, e: (q[:, :2], k, v, b, e), "must be"),
        (lambda q, k, v, b, e: (q, k, v, b, e.t()), r"edge_index must be int64 \[2, E\]; found"),
        (lambda q, k, v, b, e: (q, k, v, b, e.int()), "found torch.int32"),
        (lambda q, k, v, b, e: (q, k, v, b[:3], e), r"\[E, H\] = \[30, 3\]; found \[3, 3\]"),
        (lambda q, k, v, b, e: (q, k, v, b[:, 0], e), r"bias must be \[E, H\]"),
    ],
)
def test_shapes_that_do_not_fit(change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        edge_attention(*change(*example()))
