"""On many threads and processes: bytes as in a serial run."""

from __future__ import annotations

import asyncio
import multiprocessing
import operator
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from stofm_geo.nn import SE2Transformer, SE2TransformerConv

if TYPE_CHECKING:
    from tests.nn.modes.conftest import Subject

SIZES = (500, 9_999, 10_000, 60_000)
KINDS = ["layer", "layer, all", "stack", "edge_attention", "edge_sum", "interpolate"]


def on_threads(works: list[Callable[[], object]]) -> list:
    """Results of all, started at once; what one raises is raised here."""
    results: list = [None] * len(works)
    barrier = threading.Barrier(len(works))

    def run(i: int) -> None:
        barrier.wait()
        try:
            results[i] = works[i]()
        except BaseException as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return results


def by_pool(works: list[Callable[[], object]]) -> list:
    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(work) for work in works]]


def by_asyncio(works: list[Callable[[], object]]) -> list:
    async def all_of_them() -> list:
        return await asyncio.gather(*map(asyncio.to_thread, works))

    return asyncio.run(all_of_them())


RUNS = {"threads": on_threads, "ThreadPool": by_pool, "asyncio": by_asyncio}


def inference(subject: Subject, module: nn.Module) -> list[Tensor]:
    with torch.inference_mode():
        return [*subject.outputs(module)]


def training(subject: Subject, module: nn.Module) -> list[Tensor]:
    return [*subject.gradients(module).values()]


def assert_same_bytes(found: list[Tensor], expected: list[Tensor]) -> None:
    assert all(map(torch.equal, found, expected)) and len(found) == len(expected)


@pytest.mark.parametrize("work", [inference, training])
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        *product(KINDS, ["threads"]),
        *(
            pytest.param("layer, all", how, marks=pytest.mark.slow)
            for how in ("ThreadPool", "asyncio")
        ),
    ],
)
def test_threads(subject: Subject, work: Callable, how: str, thread_count) -> None:
    thread_count(2)  # kernels hand out work to threads of their own, too
    modules = [subject.make(0), subject.make(1), *[subject.make(2)] * 2]  # two of them share one
    alone = [work(subject, module) for module in modules]
    together = RUNS[how]([partial(work, subject, module) for module in modules])
    for found, expected in zip(together, alone, strict=True):
        assert_same_bytes(found, expected)


def layer_of(edges: int) -> tuple[SE2TransformerConv, dict[str, Tensor]]:
    torch.manual_seed(0)
    conv = SE2TransformerConv(6, 4, 2, vector_channels=2).requires_grad_(False)
    n = edges // 25
    return conv, {
        "x": torch.randn(n, 6),
        "edge_index": torch.randint(n, (2, edges)),
        "pos": 8 * torch.rand(n, 2),
    }


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_loaders(start: str) -> None:
    conv, _ = layer_of(500)
    works = [partial(conv, **layer_of(edges)[1]) for edges in SIZES]
    expected = [work() for work in works]  # threads of this process have begun
    loader = DataLoader(
        works,
        batch_size=None,
        num_workers=1,
        collate_fn=operator.methodcaller("__call__"),
        multiprocessing_context=start,
    )
    assert_same_bytes([*loader], expected)


@pytest.mark.parametrize("start", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_process_pool(start: str) -> None:
    context = multiprocessing.get_context(start)
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for edges in SIZES:
            conv, graph = layer_of(edges)
            expected = conv(**graph)
            found = pool.submit(conv, **{k: v.clone() for k, v in graph.items()}).result()
            assert_same_bytes([found], [expected])


def native_threads() -> int:
    """Number of threads of this process, those of libraries included; 0 if it cannot be told."""
    tasks = Path("/proc/self/task")
    return len([*tasks.iterdir()]) if tasks.is_dir() else 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_fork_after_threads(subject: Subject, thread_count) -> None:
    """A child has none of its parent's threads, and must not wait for them."""
    module = subject.make()
    thread_count(2)
    expected = inference(subject, module)
    threads = native_threads()
    on_threads([partial(inference, subject, module)] * 2)
    # MKL frees the buffers of a thread as it ends, and a child forked then waits for its lock.
    for _ in range(200):  # the kernels' own threads stay
        if native_threads() <= threads:
            break
        time.sleep(0.01)
    # As DataLoader's workers do: OpenMP's threads are not there after a fork.
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def child() -> None:
        torch.set_num_threads(1)
        send.send([part.numpy() for part in inference(subject, module)])

    process = context.Process(target=child)
    process.start()
    try:
        assert receive.poll(60), "the child hangs"
        found = [torch.from_numpy(part) for part in receive.recv()]
        process.join(60)
    finally:
        process.kill()  # Python would wait at its end for a child that hangs
    assert process.exitcode == 0
    thread_count(1)
    assert_same_bytes(found, inference(subject, module))
    subject.assert_close(found, expected, 1e-12)


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path: Path) -> None:
    torch.manual_seed(0)
    modules = {
        "layer": SE2TransformerConv(8, 4, 2, edge_dim=None, vector_channels=2),
        "layer, no root": SE2TransformerConv(8, 4, 2, root_weight=False),
        "stack": SE2Transformer(8, 2, 2, dropout=0.0),
        "stack, vectors": SE2Transformer(8, 2, 2, vector_channels=2, dropout=0.0),
    }
    modules = {name: module.double() for name, module in modules.items()}
    cases = {}
    for name, module in modules.items():
        for edges in SIZES:
            n = edges // 25
            graphs = [
                (
                    torch.randn(n, 8).double(),
                    torch.randint(n, (2, edges)),
                    8 * torch.rand(n, 2).double(),
                )
                for _ in range(2)
            ]
            cases[f"{name} {edges}"] = (module, graphs)
    torch.save(cases, tmp_path / "cases")
    script = Path(__file__).with_name("ddp.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path)],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    for name, (module, graphs) in cases.items():
        module.zero_grad()
        outs = [module(x, edge_index, pos=pos) for x, edge_index, pos in graphs]
        outs = [out if isinstance(out, Tensor) else out.x for out in outs]
        (sum(out.square().mean() for out in outs) / 2).backward()
        found = torch.load(tmp_path / name)
        for key, parameter in module.named_parameters():
            if parameter.requires_grad:
                torch.testing.assert_close(found[key], parameter.grad, atol=1e-12, rtol=1e-9)
