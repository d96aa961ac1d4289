"""Base class of transforms that are defined on one graph, applied to graphs and batches."""

from __future__ import annotations

import copy
from abc import abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch_geometric.data import Batch, Data
from torch_geometric.data.separate import separate
from torch_geometric.transforms import BaseTransform
from torch_geometric.utils import cumsum, sort_edge_index

from stofm_geo.transforms._slices import edge_keys, group, node_keys, padded
from stofm_geo.transforms._validation import check_data, check_edges, check_pos


class GraphTransform(BaseTransform):
    """Transform defined on one graph, which is applied to each graph of a batch.

    A batch is recognised by ``data.batch``, with or without ``ptr``, sorted or not.
    """

    uses_pos: ClassVar[bool] = True

    @abstractmethod
    def transform_graph(self, data: Data) -> Data:
        """Transform one graph, in place; ``data`` is a copy."""

    def forward(self, data: Data) -> Data:
        """Return the transformed graph, or the batch of the transformed graphs."""
        self.check(data)
        if "batch" not in data:
            # What a graph of one node has once may be of the graph.
            single = data.num_nodes == 1
            return self._transformed(data, [] if single else node_keys(data))
        graphs = BatchGraphs(data)
        return graphs.merge(
            [self._transformed(copy.copy(graph), graphs.of_node) for graph in graphs.bare]
        )

    def _transformed(self, data: Data, of_node: list[str]) -> Data:
        """Transform a graph, and extend what nodes have (``of_node``) to nodes that are added.

        Indices of nodes are not extended, since batching would shift a -1.
        """
        before = data.num_nodes
        result = self.transform_graph(data)
        if result.num_nodes > before:
            for key in of_node:
                if len(result[key]) == before and not result.__inc__(key, result[key]):
                    result[key] = padded(result[key], result.num_nodes)
        return result

    def check(self, data: Data) -> None:
        """Check ``data``, a copy, and convert its positions to floating point."""
        check_data(data, type(self).__name__)
        check_edges(data)
        if self.uses_pos:
            data.pos = check_pos(data)


class BatchGraphs:
    """Separation of a batch into graphs, and merging of the graphs into the batch.

    Nodes and edges are sorted by graph once, so the time hardly depends on the number of graphs.

    Args:
        data: Batch, with ``data.batch``.

    Raises:
        ValueError: ``batch`` is not the graph index of each node, or an edge joins two graphs.

    Attributes:
        rows: Indices in ``data`` of the nodes of each graph, ascending.
        bare: The graphs with their node and edge attributes only.
    """

    def __init__(self, data: Data) -> None:
        self.data = data
        batch = _check_batch(data)
        known = getattr(data, "_num_graphs", 0) if "ptr" not in data else data.ptr.numel() - 1
        self.order, self.sizes = group(batch, known)
        self.rows = torch.arange(data.num_nodes, device=batch.device)[self.order].split(self.sizes)
        self.ptr = cumsum(torch.tensor(self.sizes))
        self.in_order = isinstance(self.order, slice)
        self.slices: dict[str, Tensor] = getattr(data, "_slice_dict", {})
        self.increments: dict[str, Tensor] = getattr(data, "_inc_dict", {})
        follow = {f"{key}{end}" for key in data.keys() for end in ("_batch", "_ptr")}
        own = [key for key in data.keys() if key not in {"batch", "ptr", "num_nodes", *follow}]
        self.of_node = [key for key in node_keys(data) if key in own]
        self.of_edge = [key for key in edge_keys(data) if key in own]
        self.others = [key for key in own if key not in {*self.of_node, *self.of_edge}]
        self.bare = self._bare(batch)

    def _bare(self, batch: Tensor) -> list[Data]:
        data = self.data
        of_node = {key: self._parts(key, self.order, self.sizes) for key in self.of_node}
        of_edge = {}
        if data.edge_index is not None:
            _check_edges(data.edge_index, batch)
            order, sizes = group(batch[data.edge_index[1]], len(self.sizes))
            of_edge = {
                key: self._parts(key, order, sizes) for key in self.of_edge if key != "edge_index"
            }
            local_index = torch.empty_like(batch)
            start = self.ptr.to(batch.device)[batch[self.order]]
            local_index[self.order] = torch.arange(len(batch), device=batch.device) - start
            of_edge["edge_index"] = local_index[data.edge_index][:, order].split(sizes, dim=1)
        graphs = []
        for number, size in enumerate(self.sizes):
            graph = self._class()
            for key, parts in (of_node | of_edge).items():
                graph[key] = parts[number]
            if "num_nodes" in data or graph.num_nodes != size:
                graph.num_nodes = size
            graphs.append(graph)
        return graphs

    @property
    def _class(self) -> type[Data]:
        return type(self.data).__bases__[-1] if isinstance(self.data, Batch) else type(self.data)

    def _parts(self, key: str, order: Tensor | slice, sizes: list[int]) -> list[Tensor]:
        """Return ``data[key]`` of each graph."""
        value = self.data[key]
        dim = self.data.__cat_dim__(key, value)
        if not isinstance(order, slice):
            value = value.index_select(dim, order)
        parts = value.split(sizes, dim)
        added = self.increments.get(key)
        if isinstance(added, Tensor) and len(added) == len(parts) and added.any():
            return [
                part - offset.to(part.device) for part, offset in zip(parts, added, strict=True)
            ]
        return list(parts)

    def complete(self) -> list[Data]:
        """Return the graphs with all attributes; those without slices are copied to each graph."""
        stored = {key: self.slices[key] for key in self.others if key in self.slices}
        for number, graph in enumerate(self.bare):
            if stored:
                rest = separate(self._class, self.data, number, stored, self.increments)
                for key in stored:
                    graph[key] = rest[key]
            for key in self.others:
                if key not in stored:
                    graph[key] = self.data[key]
        return self.bare

    def merge(self, results: list[Data]) -> Data:
        """Merge the transformed graphs of :attr:`bare` into the batch.

        Nodes keep their order. New nodes come last in their graphs if the batch is sorted, and last
        of all nodes otherwise.
        """
        data, sizes = self.data, [result.num_nodes for result in results]
        values = self._changes(results, sizes)
        for key in [key for key, parts in values.items() if parts[0] is None]:
            del values[key]
            for name in (key, f"{key}_batch", f"{key}_ptr"):
                data[name] = None
        joined = {
            key: torch.cat(parts, data.__cat_dim__(key, parts[0])) for key, parts in values.items()
        }
        ptr = cumsum(torch.tensor(sizes))
        if "edge_index" in joined:
            count = torch.tensor([part.size(1) for part in values["edge_index"]])
            shift = ptr[:-1].repeat_interleave(count)
            joined["edge_index"] = joined["edge_index"] + shift.to(joined["edge_index"].device)
        if sizes != self.sizes:
            joined["batch"] = _graph_index(torch.tensor(sizes)).to(data.batch)
        if not self.in_order:
            self._restore_order(joined, sizes)
        for key, value in joined.items():
            data[key] = value
        if sizes != self.sizes:
            self._resize(sizes, ptr)
        if self.in_order:
            self._update_slices(values, ptr)
        return data

    def _changes(self, results: list[Data], sizes: list[int]) -> dict[str, list[Any]]:
        """Return attributes that differ from :attr:`bare`, by graph (``None``: removed)."""
        pairs = list(zip(self.bare, results, strict=True))
        changed = {
            key: None
            for before, after in pairs
            for key in (*before.keys(), *after.keys())
            if key != "num_nodes" and before.get(key) is not after.get(key)
        }
        if sizes != self.sizes:
            changed |= dict.fromkeys(self.of_edge)  # node indices change
        return {key: [after.get(key) for after in results] for key in changed}

    def _restore_order(self, joined: dict[str, Tensor], sizes: list[int]) -> None:
        """Restore the order of nodes in the batch, new ones last; sort edges by destination."""
        numbers, end = [], self.data.num_nodes
        for rows, size in zip(self.rows, sizes, strict=True):
            new = torch.arange(end, end + size - len(rows), device=rows.device)
            numbers += [rows, new]
            end += len(new)
        number = torch.cat(numbers)
        of_edge = [key for key in self.of_edge if key in joined and key != "edge_index"]
        for key in joined.keys() - {"edge_index", *of_edge}:
            joined[key] = joined[key][number.argsort()]
        if "edge_index" in joined:
            joined["edge_index"], attributes = sort_edge_index(
                number[joined["edge_index"]],
                [joined[key] for key in of_edge],
                num_nodes=end,
                sort_by_row=False,
            )
            joined.update(zip(of_edge, attributes, strict=True))

    def _resize(self, sizes: list[int], ptr: Tensor) -> None:
        """Update the numbers of nodes, and all other attributes that contain node indices."""
        data = self.data
        if "num_nodes" in data:
            data.num_nodes = sum(sizes)
            if hasattr(data, "_num_nodes"):
                data._num_nodes = sizes
        if "ptr" in data:
            data.ptr = ptr.to(data.ptr.device) if self.in_order else None
        for key, added in self.increments.items():
            if key in data and key != "edge_index" and _holds_node_indices(added, self.ptr[:-1]):
                value, count = data[key], self.slices[key].diff()
                shift = (ptr - self.ptr)[:-1].repeat_interleave(count).to(value.device)
                dim = data.__cat_dim__(key, value)
                data[key] = (value.movedim(dim, -1) + shift).movedim(-1, dim)
                self.increments = {**self.increments, key: ptr[:-1]}

    def _update_slices(self, values: dict[str, list[Tensor]], ptr: Tensor) -> None:
        """Update what ``to_data_list`` and ``follow_batch`` need."""
        data = self.data
        slices = {key: value for key, value in self.slices.items() if key in data}
        increments = {key: value for key, value in self.increments.items() if key in data}
        for key, parts in values.items():
            dim = data.__cat_dim__(key, parts[0])
            count = torch.tensor([part.size(dim) for part in parts])
            slices[key] = cumsum(count)
            increments[key] = ptr[:-1] if key == "edge_index" else torch.zeros_like(count)
            if f"{key}_batch" in data:
                data[f"{key}_batch"] = _graph_index(count).to(data[f"{key}_batch"])
                data[f"{key}_ptr"] = slices[key].to(data[f"{key}_ptr"])
        if hasattr(data, "_slice_dict"):
            data._slice_dict, data._inc_dict = slices, increments


def _graph_index(sizes: Tensor) -> Tensor:
    """Return the index of each item's graph, for graphs of these sizes."""
    return torch.arange(len(sizes)).repeat_interleave(sizes)


def _holds_node_indices(added: object, ptr: Tensor) -> bool:
    """Return whether an attribute has the increments of ``edge_index``: it holds node indices."""
    return isinstance(added, Tensor) and bool(added.any()) and added.equal(ptr)


def _check_batch(data: Data) -> Tensor:
    """Return the index of each node's graph, ``[num_nodes]`` int64."""
    batch, n = data.batch, data.num_nodes
    is_integer = isinstance(batch, Tensor) and not (batch.is_floating_point() or batch.is_complex())
    if not is_integer or batch.shape != (n,):
        found = f"{batch.dtype} {list(batch.shape)}" if isinstance(batch, Tensor) else repr(batch)
        raise ValueError(
            f"data.batch must hold the graph index of each of {n} nodes, [{n}]; found {found}"
        )
    if len(batch) and int(batch.min()) < 0:
        raise ValueError(f"data.batch must be 0 or more; found {int(batch.min())}")
    return batch.long()


def _check_edges(edge_index: Tensor, batch: Tensor) -> None:
    """Check that each edge lies within one graph."""
    src, dst = edge_index
    across = (batch[src] != batch[dst]).nonzero().view(-1)
    if len(across):
        a, b = edge_index[:, across[0]].tolist()
        raise ValueError(
            f"{len(across)} of {edge_index.size(1)} edges join nodes of different graphs, such as "
            f"{a} and {b}, of graphs {int(batch[a])} and {int(batch[b])} by data.batch; "
            "build the edges of each graph before batching"
        )
