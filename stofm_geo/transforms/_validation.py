"""Checks of the input of transforms."""

from __future__ import annotations

import torch
from torch import Tensor
from torch_geometric.data import Data

from stofm_geo._validation import preview
from stofm_geo.ops import EdgeGraph
from stofm_geo.transforms._slices import cell_mask


def check_data(data: object, name: str) -> None:
    """Check that ``data`` is a ``Data`` or a ``Batch``, for the transform ``name``.

    Raises:
        TypeError: It is neither.
    """
    if not isinstance(data, Data):
        raise TypeError(f"{name} takes a Data or a Batch; found {type(data).__name__}")


def check_attribute(data: Data, key: str, name: str, fix: str) -> None:
    """Check that ``data[key]`` exists.

    Raises:
        ValueError: The attribute is missing.
    """
    if key not in data:
        raise ValueError(f"{name} needs data.{key}; {fix}")


def check_edges(data: Data) -> None:
    """Check ``data.edge_index``, if there is one, and convert it to int64.

    Raises:
        TypeError: It is not a tensor.
        ValueError: It is not ``[2, E]``, or does not hold integers.
        IndexError: An edge has the index of a node that does not exist.
    """
    edge_index = data.edge_index
    if edge_index is None:
        return
    if not isinstance(edge_index, Tensor):
        raise TypeError(f"data.edge_index must be a tensor; found {type(edge_index).__name__}")
    if edge_index.dtype in (torch.uint8, torch.int8, torch.int16, torch.int32):
        data.edge_index = edge_index = edge_index.long()
    EdgeGraph(edge_index, data.num_nodes)


def check_pos(data: Data) -> Tensor:
    """Return ``data.pos`` in float32 or wider, ``[num_nodes, 2]``, finite for cells.

    Integers and half precision are converted to the default dtype. A virtual node may have no
    position (NaN), as CLS has in some models.

    Raises:
        TypeError: ``pos`` does not hold real numbers.
        ValueError: ``pos`` is missing, has another shape, is NaN or infinite for a cell, or holds
            integers that the default dtype cannot represent.
    """
    pos = data.pos
    if pos is None:
        raise ValueError(
            "data.pos is missing; set it to the x and y of each node, [num_nodes, 2], or build the "
            "graph with stofm_geo.from_anndata"
        )
    if not isinstance(pos, Tensor) or pos.dtype == torch.bool or pos.is_complex():
        found = pos.dtype if isinstance(pos, Tensor) else type(pos).__name__
        raise TypeError(f"data.pos must be a tensor of real numbers; found {found}")
    if pos.shape != (data.num_nodes, 2):
        raise ValueError(
            f"data.pos must be [{data.num_nodes}, 2], the x and y of each node; "
            f"found {list(pos.shape)}"
        )
    if not pos.sum().isfinite():  # cheap test; may fail for finite positions, too
        cells = cell_mask(data)
        bad = (cells & ~pos.isfinite().all(dim=1)).nonzero().view(-1)
        if len(bad):
            raise ValueError(
                f"data.pos is NaN or infinite for {len(bad)} of {int(cells.sum())} cells "
                f"(node {preview(bad[:4].tolist())}); drop them, before batching: "
                "data.subgraph(data.pos.isfinite().all(dim=1))"
            )
    if pos.dtype in (torch.float32, torch.float64):
        return pos
    dtype = torch.promote_types(torch.get_default_dtype(), torch.float32)
    wide = pos.to(dtype)
    if not pos.is_floating_point() and (wide.to(pos.dtype) != pos).any():
        raise ValueError(
            f"data.pos holds integers up to {int(pos.abs().max())}, which {dtype} cannot hold; "
            "convert them: data.pos = data.pos.double()"
        )
    return wide
