"""The Triton kernels: on a GPU where there is one, else in Triton's interpreter.

The interpreter must be chosen before triton is imported, which PyTorch Geometric does; so the
kernels run in a process of their own, which gets tensors and sends back results.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from stofm_geo.ops.edge_attention import triton as backend

SERVE = """
import importlib.util, pickle, sys
replies, sys.stdout = sys.stdout.buffer, sys.stderr
spec = importlib.util.spec_from_file_location("backend", sys.argv[1])
backend = importlib.util.module_from_spec(spec)
spec.loader.exec_module(backend)
assert backend.unavailable() is None, backend.unavailable()
while True:
    try:
        name, tensors = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    pickle.dump(getattr(backend, name)(*tensors), replies)
    replies.flush()
"""


class Kernels(NamedTuple):
    forward: Callable[..., tuple[Tensor, ...]]
    backward: Callable[..., tuple[Tensor, ...]]


@pytest.fixture(scope="module")
def kernels() -> Iterator[Kernels]:
    pytest.importorskip("triton")
    if backend.unavailable() is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"

        def here(name: str, *tensors: Tensor) -> tuple[Tensor, ...]:
            results = getattr(backend, name)(*(t.to(device) for t in tensors))
            return tuple(t.cpu() for t in results)

        yield Kernels(partial(here, "forward"), partial(here, "backward"))
        return
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, backend.__file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    ) as child:

        def there(name: str, *tensors: Tensor) -> tuple[Tensor, ...]:
            pickle.dump((name, tensors), child.stdin)
            child.stdin.flush()
            return pickle.load(child.stdout)

        yield Kernels(partial(there, "forward"), partial(there, "backward"))
        child.stdin.close()


class Graph(NamedTuple):
    src: Tensor
    dst: Tensor
    ptr: Tensor
    reverse_ptr: Tensor
    reverse_edges: Tensor


def graph(src: list | Tensor, dst: list | Tensor, n: int, m: int) -> Graph:
    src = torch.as_tensor(src, dtype=torch.int64)
    dst, order = torch.as_tensor(dst, dtype=torch.int64).sort(stable=True)
    src = src[order]

    def starts(index: Tensor, size: int) -> Tensor:
        return torch.cat([index.new_zeros(1), index.bincount(minlength=size).cumsum(0)])

    return Graph(src, dst, starts(dst, n), starts(src, m), src.argsort(stable=True))


def example(
    n: int = 4,
    m: int = 5,
    edges: int = 15,
    heads: int = 3,
    channels: int = 4,
    values: int | None = None,
    dtype: torch.dtype = torch.float64,
    bias_dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Graph]:
    draw = torch.Generator().manual_seed(0)
    values = channels if values is None else values
    q = torch.randn(n, heads, channels, generator=draw, dtype=torch.float64).to(dtype)
    k = torch.randn(m, heads, channels, generator=draw, dtype=torch.float64).to(dtype)
    v = torch.randn(m, heads, values, generator=draw, dtype=torch.float64).to(dtype)
    bias = torch.randn(edges, heads, generator=draw, dtype=torch.float64).to(bias_dtype or dtype)
    src = torch.randint(max(m, 1), (edges,), generator=draw)
    dst = torch.randint(max(n, 1), (edges,), generator=draw)
    return q, k, v, bias, graph(src, dst, n, m)


def slow(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, edges: Graph
) -> tuple[Tensor, Tensor, Tensor]:
    """The formula, a node and a head at a time."""
    lse = q.new_zeros(q.shape[:2]) + 0 * q.sum()
    out, logits = v.new_zeros(*q.shape[:2], v.size(2)) + 0 * q.sum(), bias.clone()
    for i in range(q.size(0)):
        own = slice(edges.ptr[i], edges.ptr[i + 1])
        for h in range(q.size(1)):
            logit = k[edges.src[own], h] @ q[i, h] / q.size(2) ** 0.5 + bias[own, h]
            logits[own, h] = logit
            if (logit > -torch.inf).any():
                lse[i, h] = logit.logsumexp(0)
                out[i, h] = logit.softmax(0) @ v[edges.src[own], h]
    return out, logits, lse


def check(
    kernels: Kernels,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    edges: Graph,
    tolerance: float | None = None,
) -> tuple[Tensor, ...]:
    """Compare results and gradients with those of the formula in double; return the kernels'."""
    if tolerance is None:
        tolerance = 1e-10 if q.dtype == torch.float64 else 1e-5
    near = partial(torch.testing.assert_close, atol=tolerance, rtol=tolerance)
    leaves = [t.double().requires_grad_() for t in (q, k, v, bias)]
    expected = slow(*leaves, edges)
    results = kernels.forward(q, k, v, bias, edges.src, edges.ptr)
    kind = torch.promote_types(torch.promote_types(q.dtype, bias.dtype), torch.float32)
    assert [t.dtype for t in results] == [v.dtype, kind, kind]
    for one, other in zip(results, expected, strict=True):
        near(one.double(), other.detach())

    draw = torch.Generator().manual_seed(1)
    grads = [torch.randn(t.shape, generator=draw, dtype=t.dtype) for t in results]
    torch.autograd.backward(expected, [t.double() for t in grads])
    gradients = kernels.backward(*grads, q, k, v, *results[1:], *edges)
    assert [t.dtype for t in gradients] == [q.dtype, k.dtype, v.dtype, kind]
    for one, leaf in zip(gradients, leaves, strict=True):
        near(one.double(), torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
    return *results, *gradients


@pytest.mark.parametrize("channels", [1, 3, 8, 20])
@pytest.mark.parametrize("heads", [1, 3, 8])
def test_values_and_gradients_are_those_of_the_formula(
    kernels: Kernels, heads: int, channels: int
) -> None:
    check(kernels, *example(heads=heads, channels=channels))


CASES = {
    "dense": {"edges": 100},
    "many destinations": {"n": 12, "m": 2},
    "many sources": {"n": 2, "m": 12},
    "wide values": {"values": 9},
    "narrow values": {"channels": 8, "values": 1},
    "no values": {"values": 0},
    "one edge": {"edges": 1},
    "one node": {"n": 1, "m": 1, "edges": 1},
    "several blocks of heads": {"n": 2, "m": 2, "edges": 12, "heads": 40, "channels": 30},
    "rows too wide for a block of 8 edges": {"n": 2, "m": 2, "heads": 2, "channels": 1100},
    "no edges": {"edges": 0},
    "no destinations": {"n": 0, "edges": 0},
    "no sources": {"m": 0, "edges": 0},
    "no nodes": {"n": 0, "m": 0, "edges": 0},
}


@pytest.mark.parametrize("case", CASES)
def test_shapes(kernels: Kernels, case: str) -> None:
    check(kernels, *example(**CASES[case], dtype=torch.float32))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("bias_dtype", ["half", "single"])
def test_half_precision(kernels: Kernels, dtype: torch.dtype, bias_dtype: str) -> None:
    bias = torch.float32 if bias_dtype == "single" else dtype
    *tensors, edges = example(values=5, dtype=dtype, bias_dtype=bias)
    tensors[3][3] = -torch.inf
    *results, _ = check(kernels, *tensors, edges, tolerance=0.05)
    # Logits and log-sum-exp are summed and kept in single precision.
    expected = slow(*(t.double() for t in tensors), edges)
    for one, other in zip(results[1:3], expected[1:], strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5)


def test_types_may_differ(kernels: Kernels) -> None:
    q, k, v, bias, edges = example()
    results = kernels.forward(q.float(), k.bfloat16(), v.half(), bias, edges.src, edges.ptr)
    assert [t.dtype for t in results] == [torch.float16, torch.float64, torch.float64]
    expected = slow(q, k, v, bias, edges)
    for one, other in zip(results, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=0.05, rtol=0.05)


def test_nodes_without_edges(kernels: Kernels) -> None:
    q, k, v, bias, _ = example(n=9, m=9, edges=4)
    out, _, lse, dq, dk, dv, _ = check(
        kernels, q, k, v, bias, graph([1, 1, 8, 2], [5, 5, 5, 3], 9, 9)
    )
    assert all((t[[0, 1, 2, 4, 6, 7, 8]] == 0).all() for t in (out, lse, dq))
    assert all((t[[0, 3, 4, 5, 6, 7]] == 0).all() for t in (dk, dv))


def test_edges_that_are_there_several_times(kernels: Kernels) -> None:
    *tensors, _ = example(n=2, m=2, edges=9)
    check(kernels, *tensors, graph([1] * 7 + [0] * 2, [0] * 8 + [1], 2, 2))


# Many blocks of edges, which are of 16 at most.
@pytest.mark.parametrize("degree", [300, pytest.param(2000, marks=pytest.mark.slow)])
def test_hubs(kernels: Kernels, degree: int) -> None:
    q, k, v, bias, edges = example(n=4, m=4, edges=degree, heads=2, dtype=torch.float32)
    src, dst = edges.src.clone(), torch.ones(degree, dtype=torch.int64)
    src[::2] = 2
    dst[:5] = 3
    check(kernels, q, k, v, bias, graph(src, dst, 4, 4), tolerance=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_hidden_edges(kernels: Kernels, dtype: torch.dtype) -> None:
    q, k, v, bias, edges = example(n=5, m=5, edges=90, dtype=dtype)
    bias[edges.dst == 1] = -torch.inf
    bias[edges.dst == 2, 1] = -torch.inf  # in one head alone
    bias[(edges.dst == 3).nonzero()[:-1, 0]] = -torch.inf  # all but the last edge
    bias[(edges.dst == 4).nonzero()[2:, 0]] = -torch.inf  # all but the first two
    bias[edges.src == 2] = -torch.inf  # a source that nobody sees
    out, logits, lse, *gradients = check(kernels, q, k, v, bias, edges)
    assert (logits[bias == -torch.inf] == -torch.inf).all()
    assert (out[1] == 0).all() and (lse[1] == 0).all()
    assert (out[2, 1] == 0).all() and (lse[2, 1] == 0).all() and (out[2, 0] != 0).all()
    assert all(t.isfinite().all() for t in gradients)
    assert (gradients[2][2] == 0).all()


def test_a_hidden_edge_is_like_none(kernels: Kernels) -> None:
    q, k, v, bias, edges = example(edges=40)
    seen = torch.rand(40, generator=torch.Generator().manual_seed(2)) < 0.6
    fewer = graph(edges.src[seen], edges.dst[seen], 4, 5)
    bias[~seen] = -torch.inf
    out, _, lse = kernels.forward(q, k, v, bias, edges.src, edges.ptr)
    expected = kernels.forward(q, k, v, bias[seen], fewer.src, fewer.ptr)
    torch.testing.assert_close((out, lse), (expected[0], expected[2]))


@pytest.mark.parametrize("level", [-800.0, 800.0])
def test_huge_logits(kernels: Kernels, level: float) -> None:
    """Neither sums nor what lies outside of the last block of edges may overflow."""
    q, k, v, bias, edges = example(edges=50, dtype=torch.float32)
    check(kernels, q, k, v, bias + level, edges, tolerance=1e-3)
    bias[:, 0] *= 100
    check(kernels, q, k, v, bias, edges, tolerance=1e-3)


def test_strided_inputs(kernels: Kernels) -> None:
    q, k, v, bias, edges = example(n=4, m=4)
    q, k, v = torch.stack([q, k, v], dim=1).unbind(1)
    bias = bias.t().contiguous().t()
    edges = Graph(*(torch.stack([t, t], dim=1)[:, 0] for t in edges))
    assert not any(t.is_contiguous() for t in (q, k, v, bias, *edges))
    check(kernels, q, k, v, bias, edges)


def test_expanded_gradients(kernels: Kernels) -> None:
    """What ``out.sum()`` sends back is a single number, expanded."""
    q, k, v, bias, edges = example()
    results = kernels.forward(q, k, v, bias, edges.src, edges.ptr)
    ones = [torch.ones((), dtype=t.dtype).expand(t.shape) for t in results]
    gradients = kernels.backward(*ones, q, k, v, *results[1:], *edges)
    again = kernels.backward(*(t.clone() for t in ones), q, k, v, *results[1:], *edges)
    assert all(map(torch.equal, gradients, again))


def test_same_input_same_bytes(kernels: Kernels) -> None:
    *tensors, edges = example(edges=100, dtype=torch.float32)
    runs = [check(kernels, *tensors, edges) for _ in range(2)]
    assert all(map(torch.equal, *runs))


def test_inputs_stay_as_they_were(kernels: Kernels) -> None:
    *tensors, edges = example()
    before = [t.clone() for t in (*tensors, *edges)]
    check(kernels, *tensors, edges)
    assert all(map(torch.equal, (*tensors, *edges), before))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dtype", "sizes"),
    [
        (torch.float32, {"heads": 8, "channels": 16}),
        (torch.bfloat16, {"heads": 8, "channels": 32}),
        (torch.float16, {"heads": 3, "channels": 5, "values": 1}),
        (torch.float64, {"heads": 3, "channels": 5, "values": 20}),
        (torch.float32, {"heads": 1, "channels": 1, "values": 0}),
    ],
)
def test_the_compiler_takes_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: os.PathLike, dtype: torch.dtype, sizes: dict
) -> None:
    """To PTX of an H100, which needs no GPU; the interpreter takes more than the compiler."""
    triton = pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.compiler")
    targets = pytest.importorskip("triton.backends.compiler")
    if not isinstance(backend._attend, triton.JITFunction):
        pytest.skip("Triton interprets in this process")
    if "constexprs" not in inspect.signature(compiler.ASTSource).parameters:
        pytest.skip("Triton before 3.3 is asked in another way")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    names = {torch.float64: "fp64", torch.float32: "fp32", torch.int64: "i64"}
    names |= {torch.float16: "fp16", torch.bfloat16: "bf16"}
    compiled = []

    class Compile:
        def __init__(self, kernel) -> None:
            self.kernel = kernel

        def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
            return self.launch

        def launch(self, *given, **named: int) -> None:
            options = {key: named[key] for key in named if key not in self.kernel.arg_names}
            values = dict(zip(self.kernel.arg_names, given, strict=False))
            values |= {key: named[key] for key in named if key not in options}
            tensors = {key: t for key, t in values.items() if isinstance(t, Tensor)}
            constants = {key: t for key, t in values.items() if key not in tensors}
            source = compiler.ASTSource(
                self.kernel,
                {key: "constexpr" for key in constants}
                | {key: "*" + names[t.dtype] for key, t in tensors.items()},
                constants,
            )
            made = triton.compile(source, targets.GPUTarget("cuda", 90, 32), options)
            assert ".entry" in made.asm["ptx"]
            compiled.append(self.kernel)

    for name in ("_attend", "_to_destinations", "_to_sources"):
        monkeypatch.setattr(backend, name, Compile(getattr(backend, name)))
    q, k, v, bias, edges = example(**sizes, dtype=dtype)
    results = backend.forward(q, k, v, bias, edges.src, edges.ptr)
    backend.backward(*results, q, k, v, *results[1:], *edges)
    assert len(compiled) == 3


def test_without_triton_it_can_be_imported_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    spec = importlib.util.spec_from_file_location("without_triton", backend.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "triton cannot be imported" in module.unavailable()
    assert "pip install triton" in module.unavailable(torch.zeros(1))


def test_it_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    triton = pytest.importorskip("triton")
    if not isinstance(backend._attend, triton.JITFunction):
        pytest.skip("Triton interprets in this process")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert backend.unavailable() == "there is no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert backend.unavailable() is None
    assert backend.unavailable(torch.zeros(1)) == "the tensors are on cpu"
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # too late
    monkeypatch.setattr(backend, "_attend", triton.jit(lambda: None))
    assert "after triton was imported" in backend.unavailable()
