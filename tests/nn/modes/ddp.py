"""What each of two processes does: gradients by DistributedDataParallel, on a graph of its own.

Called as ``python ddp.py RANK FOLDER``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def main(rank: int, folder: Path) -> None:
    """Write the gradients of each case into the folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for name, (module, graphs) in torch.load(folder / "cases", weights_only=False).items():
        parallel = DistributedDataParallel(module)  # without find_unused_parameters
        for _ in range(2):  # a parameter without a gradient is refused by the second
            parallel.zero_grad()
            loss_of(parallel, graphs[rank]).backward()
        if rank == 0:
            gradients = {key: value.grad for key, value in module.named_parameters()}
            torch.save(gradients, folder / name)
    dist.destroy_process_group()


def loss_of(module: nn.Module, graph: tuple) -> torch.Tensor:
    """Of the node features alone."""
    x, edge_index, pos = graph
    out = module(x, edge_index, pos=pos)
    return (out if isinstance(out, torch.Tensor) else out[0]).square().mean()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
