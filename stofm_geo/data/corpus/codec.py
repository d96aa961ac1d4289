"""Serialisation of sub-slices, and of the header that the sub-slices of a slice share.

Both are in the safetensors format: names, types and shapes, then plain numbers. What can be
computed is not stored: values, components and all edges of virtual nodes. Edges between cells are
stored, each once, since a new search in the sub-slice would give others: a cell at its rim, whose
neighbours were cut off, would be joined to cells inside, and change their niches.
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
from stofm_geo._linalg import row_sums
from stofm_geo.data.canonical_pose import GRID
from stofm_geo.data.corpus.counts import whole
from stofm_geo.data.molecules import Molecules, features_of
from stofm_geo.data.panel_slice import PanelSlice
from stofm_geo.data.subslices import attach_panel, pad_rows
from stofm_geo.genes.components import Components
from stofm_geo.genes.fractions import FractionComponents

_VIRTUAL = ("x", "pos", "node_type", "cluster_size")  # attributes of virtual nodes
_HELD_OUT = "held_out_"  # prefix of names of arrays


@dataclass
class SliceHeader:
    """Data that the sub-slices of a slice share.

    Attributes:
        components: Principal components of the slice.
        x: Components of the virtual nodes, ``[V, components]``.
        pos: Positions of the virtual nodes, ``[V, 2]`` float64.
        node_type: :class:`~stofm_geo.NodeType` of the virtual nodes, ``[V]``.
        cluster_size: Number of cells of each virtual node, ``[V]``.
        fractions: Components of fractions of the slice, if molecules are held out.
    """

    components: Components
    x: Tensor
    pos: Tensor
    node_type: Tensor
    cluster_size: Tensor
    fractions: FractionComponents | None = None

    @classmethod
    def from_slice(cls, panel_slice: PanelSlice) -> SliceHeader:
        """Return the header of a slice."""
        n, data = panel_slice.counts.shape[0], panel_slice.data
        virtual = {name: data[name][n:] for name in _VIRTUAL}
        if panel_slice.fractions is not None:  # macro nodes show nothing of what is held out
            virtual["x"] = features_of(data, panel_slice.components, panel_slice.train)[n:]
        return cls(components=panel_slice.components, fractions=panel_slice.fractions, **virtual)

    def to_bytes(self) -> bytes:
        """Return the bytes that :meth:`from_bytes` reads."""
        components = self.components
        return save(
            {
                "scale": np.array([components.scale]),
                "panel": _small(components.panel),
                "loadings": components.loadings,
                "centre": components.centre,
                **{name: getattr(self, name).numpy() for name in _VIRTUAL},
                **(self.fractions.arrays() if self.fractions else {}),
            }
        )

    @classmethod
    def from_bytes(cls, stored: bytes) -> SliceHeader:
        """Read the bytes of :meth:`to_bytes`."""
        arrays = load(stored)
        names = ("scale", "panel", "loadings", "centre")
        scale, panel, loadings, centre = (arrays[name] for name in names)
        return cls(
            components=Components(scale[0], panel.astype(np.int64), loadings, centre),
            fractions=FractionComponents.from_arrays(arrays),
            **{name: torch.from_numpy(arrays[name]) for name in _VIRTUAL},
        )

    @property
    def nbytes(self) -> int:
        """Approximate size in memory, in bytes."""
        fractions = 0 if self.fractions is None else self.fractions.axes.nbytes
        return self.components.loadings.nbytes + self.components.panel.nbytes + fractions


def encode(subslice: Data, counts: sp.csr_matrix, held_out: sp.csr_matrix | None = None) -> bytes:
    """Encode a sub-slice of :attr:`~stofm_geo.data.panel_slice.PanelSlice.cuts` as a record.

    Args:
        subslice: Sub-slice whose cells come before its virtual nodes.
        counts: Counts of its cells, ``[n, genes]`` float32; with ``held_out``, of the others.
        held_out: Counts of their molecules that are held out, or ``None``.
    """
    n = counts.shape[0]
    src, dst = subslice.edge_index.numpy()
    first_of_pair = src < dst
    return save(
        {
            **_counts(counts, ""),
            **({} if held_out is None else _counts(held_out, _HELD_OUT)),
            "pos": _small(np.round(subslice.pos[:n].numpy() * GRID).astype(np.int64)),
            "cluster": _small(subslice.cluster[:n].numpy() - n),
            "n_id": _small(subslice.n_id[:n].numpy()),
            "core_mask": subslice.core_mask[:n].numpy(),
            "near": _small(src[first_of_pair]),
            "num_near": _small(np.bincount(dst[first_of_pair], minlength=n)),
        }
    )


def _counts(counts: sp.csr_matrix, prefix: str) -> dict[str, np.ndarray]:
    return {
        f"{prefix}count": whole(counts.data),
        f"{prefix}gene": _small(counts.indices),
        f"{prefix}num_genes": _small(np.diff(counts.indptr)),
    }


def decode(record: bytes, common: SliceHeader, gene_index: np.ndarray, technology: int) -> Data:
    """Decode a record to a sub-slice, as in :class:`~stofm_geo.data.SubSliceDataset`.

    If molecules are held out, as in :class:`~stofm_geo.data.molecules.MoleculeSlice`.

    Args:
        record: Result of :func:`encode`.
        common: Header of the slice.
        gene_index: Index of each gene of the slice in the corpus, ascending, ``[G]``.
        technology: Index of the technology.
    """
    arrays = load(record)
    n, v = len(arrays["cluster"]), len(common.node_type)
    counts = _rows(arrays, "", len(gene_index))
    cluster = torch.from_numpy(arrays["cluster"].astype(np.int64)) + n
    pairs = np.stack([arrays["near"].astype(np.int64), np.repeat(np.arange(n), arrays["num_near"])])
    edge_index = torch.from_numpy(np.concatenate([pairs, pairs[::-1]], axis=1))
    no_cluster = torch.full((v,), -1)
    subslice = Data(
        x=torch.cat([torch.from_numpy(common.components(counts)), common.x]),
        pos=torch.cat([torch.from_numpy(arrays["pos"] / GRID), common.pos]),
        edge_index=sort_edge_index(edge_index, num_nodes=n + v, sort_by_row=False),
        node_type=torch.cat([torch.full((n,), NodeType.CELL), common.node_type]),
        cluster=torch.cat([cluster, no_cluster]),
        cluster_size=torch.cat([torch.zeros(n, dtype=torch.long), common.cluster_size]),
        n_id=torch.cat([torch.from_numpy(arrays["n_id"].astype(np.int64)), no_cluster]),
        core_mask=torch.cat(
            [torch.from_numpy(arrays["core_mask"]), torch.zeros(v, dtype=torch.bool)]
        ),
        num_nodes=n + v,
    )
    if common.fractions is not None:
        held_out = _rows(arrays, _HELD_OUT, len(gene_index))
        sums = common.fractions.sums(counts)
        seen = common.fractions.expected_of_sums(sums, row_sums(counts))
        subslice.fractions = pad_rows(torch.from_numpy(seen), subslice.num_nodes)
        shared = common.components, common.fractions
        subslice.molecules = Molecules(counts, held_out, *shared, sums)
    panel = torch.from_numpy(gene_index[common.components.panel])
    return attach_panel(subslice, panel, technology, common.components, common.fractions)


def _rows(arrays: dict[str, np.ndarray], prefix: str, width: int) -> sp.csr_matrix:
    value, gene, size = (arrays[prefix + name] for name in ("count", "gene", "num_genes"))
    ptr = np.concatenate([[0], np.cumsum(size, dtype=np.int64)])
    parts = value.astype(np.float32), gene.astype(np.int32), ptr
    return sp.csr_matrix(parts, shape=(len(size), width))


def _small(numbers: np.ndarray) -> np.ndarray:
    """Convert whole numbers to the smallest integer type that holds them."""
    low, high = (int(numbers.min()), int(numbers.max())) if numbers.size else (0, 0)
    dtypes = (np.uint8, np.uint16, np.int32, np.int64)
    fitting = (
        dtype for dtype in dtypes if np.iinfo(dtype).min <= low and high <= np.iinfo(dtype).max
    )
    return np.ascontiguousarray(numbers, dtype=next(fitting))
