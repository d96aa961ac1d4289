"""The compiled kernel where users put it: workers, threads, torch.compile, read-only folders."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from numba import njit
from numba.core import caching
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stofm_geo import ops
from stofm_geo.ops import EdgeGraph, threads
from stofm_geo.ops.compiled import compiled
from stofm_geo.ops.edge_attention import cpu


def example(n: int = 400, edges: int = 9000, heads: int = 8, channels: int = 16) -> list[Tensor]:
    draw = torch.Generator().manual_seed(0)
    shapes = [(n, heads, channels)] * 3 + [(edges, heads)]
    tensors = [torch.randn(shape, generator=draw) for shape in shapes]
    return [*tensors, torch.randint(n, (2, edges), generator=draw)]


def gradients(tensors: list[Tensor], backend: str = "cpu") -> list[Tensor]:
    leaves = [tensor.clone().requires_grad_() for tensor in tensors[:4]]
    out, logits, lse = ops.edge_attention(*leaves, tensors[4], backend=backend)
    (out.square().sum() + logits.sum() + lse.sum()).backward()
    return [out.detach(), logits.detach(), lse.detach(), *(leaf.grad for leaf in leaves)]


def test_it_is_a_registered_op() -> None:
    tensors = example(n=12, edges=40, heads=3, channels=5)
    graph = EdgeGraph(tensors[4], 12)
    args = (*tensors[:3], graph.sort(tensors[3]), graph.src, graph.dst, graph.ptr, *graph.reverse)
    for dtype in (torch.float32, torch.float64):
        leaves = [a.to(dtype).requires_grad_() if a.is_floating_point() else a for a in args]
        torch.library.opcheck(torch.ops.stofm_geo.edge_attention, (*leaves, "cpu"))


def test_compiled_in_one_graph() -> None:
    tensors = example(n=30, edges=100)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda *args: ops.edge_attention(*args)[0].sin(), fullgraph=True, backend="aot_eager"
    )
    leaves = [tensor.clone().requires_grad_() for tensor in tensors[:4]]
    out = compiled(*leaves, tensors[4])
    out.sum().backward()
    expected = [tensor.clone().requires_grad_() for tensor in tensors[:4]]
    ops.edge_attention(*expected, tensors[4], backend="reference")[0].sin().sum().backward()
    for leaf, other in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad, other.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_any_number_of_threads_gives_the_same_bytes(thread_count, monkeypatch, count: int) -> None:
    tensors = example()
    thread_count(1)
    expected = gradients(tensors)
    monkeypatch.setattr(threads, "_SMALL", 0)
    thread_count(count)
    assert all(map(torch.equal, gradients(tensors), expected))


def test_two_python_threads_at_once(thread_count, monkeypatch) -> None:
    monkeypatch.setattr(threads, "_SMALL", 0)
    thread_count(2)
    tensors = example()
    expected = gradients(tensors)
    results: list[list[Tensor]] = []
    workers = [
        threading.Thread(target=lambda: results.extend(gradients(tensors) for _ in range(5)))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(results) == 20
    assert all(all(map(torch.equal, result, expected)) for result in results)


class Attended(Dataset):
    """Attends in the worker."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        threads._SMALL = 0
        torch.set_num_threads(2)
        return torch.stack([part.sum() for part in gradients(example(n=40, edges=200))])


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_in_workers_of_a_data_loader(context: str, monkeypatch) -> None:
    monkeypatch.setattr(threads, "_SMALL", 0)
    expected = torch.stack([part.sum() for part in gradients(example(n=40, edges=200))])
    # A spawned worker imports this file by its name; a package may have a "tests" of its own.
    monkeypatch.syspath_prepend(Path(__file__).parent)
    cells = importlib.import_module(Path(__file__).stem).Attended()
    loader = DataLoader(cells, num_workers=2, multiprocessing_context=context, timeout=120)
    for batch in loader:
        torch.testing.assert_close(batch[0], expected, atol=1e-3, rtol=1e-4)


def test_rows_are_shared_out_evenly_by_their_edges() -> None:
    ptr = torch.tensor([0, 1000, 1000, 1000, 1001, 1002, 2002]).numpy()
    assert threads.row_ranges(ptr, 2) == [(0, 4), (4, 6)]
    for count in (1, 2, 3, 5, 50):
        found = threads.row_ranges(ptr, count)
        assert [row for first, last in found for row in range(first, last)] == list(range(6))
    assert threads.row_ranges(torch.tensor([0]).numpy(), 4) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    tensors = example(n=30, edges=100)
    halves = [tensor.to(dtype) for tensor in tensors[:3]]
    out, logits, _ = ops.edge_attention(*halves, *tensors[3:], backend="cpu")
    expected = ops.edge_attention(*[half.float() for half in halves], *tensors[3:])
    assert out.dtype == dtype and logits.dtype == torch.float32
    torch.testing.assert_close(out, expected[0].to(dtype))
    torch.testing.assert_close(logits, expected[1])


def test_on_another_device_it_says_so() -> None:
    assert cpu.unavailable(torch.empty(1, device="meta")) == "the tensors are on meta"


def double(x: float) -> float:
    return 2 * x


def test_a_function_is_compiled_without_a_folder_that_can_be_written_to(monkeypatch) -> None:
    def refuse(self: object) -> None:
        raise OSError("read-only")

    for locator in caching.CacheImpl._locator_classes:
        monkeypatch.setattr(locator, "ensure_cache_path", refuse)
    with pytest.raises(RuntimeError, match="no locator available"):
        njit(cache=True)(double)
    assert compiled(double)(3.0) == 6


@pytest.mark.slow
def test_without_a_folder_that_can_be_written_to() -> None:
    """numba keeps compiled code beside the source, or in the user's cache; or nowhere."""
    script = """
import numba.core.caching as caching
def refuse(self):
    raise OSError("read-only")
for locator in caching.CacheImpl._locator_classes:
    locator.ensure_cache_path = refuse
import torch
from stofm_geo.ops import edge_attention
q = torch.randn(4, 2, 3)
out, _, _ = edge_attention(q, q, q, torch.zeros(5, 2), torch.randint(4, (2, 5)), backend="cpu")
assert out.isfinite().all()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=dict(os.environ)
    )
    assert done.returncode == 0, done.stderr
