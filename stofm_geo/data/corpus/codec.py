"""A sub-slice, and what the sub-slices of a slice share, as bytes and back.

Both are serialisations of safetensors: a header of names, types and shapes, then plain numbers.
What can be computed from them is left out: values and components, and all edges of virtual nodes.
The cells' edges are kept, each once. Searched for anew in a sub-slice they would be others: a cell
at the rim, whose neighbours were cut off, would be joined to cells inside, and change their niches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from safetensors.numpy import load, save
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.utils import sort_edge_index

from stofm_geo._keys import NodeType
from stofm_geo.data.canonical_pose import GRID
from stofm_geo.data.corpus.counts import whole
from stofm_geo.data.panel_slice import PanelSlice
from stofm_geo.data.subslices import attach_panel
from stofm_geo.genes.components import Components

_VIRTUAL = ("x", "pos", "node_type", "cluster_size")  # what is known of virtual nodes


@dataclass
class SliceHeader:
    """What the sub-slices of a slice share.

    Attributes:
        components: What makes components of counts.
        x: Those of the virtual nodes, ``[V, components]``.
        pos: Their positions, ``[V, 2]`` float64.
        node_type: Their kinds, ``[V]``.
        cluster_size: Cells of each, ``[V]``.
    """

    components: Components
    x: Tensor
    pos: Tensor
    node_type: Tensor
    cluster_size: Tensor

    @classmethod
    def from_slice(cls, own: PanelSlice) -> SliceHeader:
        """Return the header of a slice."""
        n, data = own.counts.shape[0], own.data
        return cls(own.components, *(data[name][n:] for name in _VIRTUAL))

    def to_bytes(self) -> bytes:
        """Return the bytes that :meth:`from_bytes` reads."""
        own = self.components
        return save(
            {
                "scale": np.array([own.scale]),
                "panel": _small(own.panel),
                "loadings": own.loadings,
                "centre": own.centre,
                **{name: getattr(self, name).numpy() for name in _VIRTUAL},
            }
        )

    @classmethod
    def from_bytes(cls, stored: bytes) -> SliceHeader:
        """Read the bytes of :meth:`to_bytes`."""
        of = load(stored)
        return cls(
            Components(of["scale"][0], of["panel"].astype(np.int64), of["loadings"], of["centre"]),
            *(torch.from_numpy(of[name]) for name in _VIRTUAL),
        )

    @property
    def nbytes(self) -> int:
        """Approximate size in memory, in bytes."""
        return self.components.loadings.nbytes + self.components.panel.nbytes


def encode(subslice: Data, counts: sp.csr_matrix) -> bytes:
    """Encode a sub-slice of :attr:`~stofm_geo.data.panel_slice.PanelSlice.cuts` as a record.

    Args:
        subslice: Its cells come first.
        counts: Of its cells, float32.
    """
    n = counts.shape[0]
    src, dst = subslice.edge_index.numpy()
    once = src < dst
    return save(
        {
            "count": whole(counts.data),
            "gene": _small(counts.indices),
            "num_genes": _small(np.diff(counts.indptr)),
            "pos": _small(np.round(subslice.pos[:n].numpy() * GRID).astype(np.int64)),
            "cluster": _small(subslice.cluster[:n].numpy() - n),
            "n_id": _small(subslice.n_id[:n].numpy()),
            "core_mask": subslice.core_mask[:n].numpy(),
            "near": _small(src[once]),
            "num_near": _small(np.bincount(dst[once], minlength=n)),
        }
    )


def decode(record: bytes, common: SliceHeader, number: np.ndarray, technology: int) -> Data:
    """Decode a record to a sub-slice, as in :class:`~stofm_geo.data.SubSliceDataset`.

    Args:
        record: Of :func:`encode`.
        common: Of its slice.
        number: What number the slice's genes have elsewhere, ascending, ``[G]``.
        technology: Its number.
    """
    of = load(record)
    n, v = len(of["cluster"]), len(common.node_type)
    counts = _rows(of["count"], of["gene"], of["num_genes"], len(number))
    cluster = torch.from_numpy(of["cluster"].astype(np.int64)) + n
    once = np.stack([of["near"].astype(np.int64), np.repeat(np.arange(n), of["num_near"])])
    edge_index = torch.from_numpy(np.concatenate([once, once[::-1]], axis=1))
    none = torch.full((v,), -1)
    subslice = Data(
        x=torch.cat([torch.from_numpy(common.components(counts)), common.x]),
        pos=torch.cat([torch.from_numpy(of["pos"] / GRID), common.pos]),
        edge_index=sort_edge_index(edge_index, num_nodes=n + v, sort_by_row=False),
        node_type=torch.cat([torch.full((n,), NodeType.CELL), common.node_type]),
        cluster=torch.cat([cluster, none]),
        cluster_size=torch.cat([torch.zeros(n, dtype=torch.long), common.cluster_size]),
        n_id=torch.cat([torch.from_numpy(of["n_id"].astype(np.int64)), none]),
        core_mask=torch.cat([torch.from_numpy(of["core_mask"]), torch.zeros(v, dtype=torch.bool)]),
        num_nodes=n + v,
    )
    panel = torch.from_numpy(number[common.components.panel])
    return attach_panel(subslice, panel, torch.from_numpy(common.components.loadings), technology)


def _rows(value: np.ndarray, gene: np.ndarray, size: np.ndarray, width: int) -> sp.csr_matrix:
    ptr = np.concatenate([[0], np.cumsum(size, dtype=np.int64)])
    of = value.astype(np.float32), gene.astype(np.int32), ptr
    return sp.csr_matrix(of, shape=(len(size), width))


def _small(numbers: np.ndarray) -> np.ndarray:
    """Convert whole numbers to the smallest integer type that holds them."""
    low, high = (int(numbers.min()), int(numbers.max())) if numbers.size else (0, 0)
    kinds = (np.uint8, np.uint16, np.int32, np.int64)
    fit = (kind for kind in kinds if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)
    return np.ascontiguousarray(numbers, dtype=next(fit))
