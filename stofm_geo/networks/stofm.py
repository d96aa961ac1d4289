"""The network: from features and positions of a sub-slice to embeddings and pair states."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch_geometric.data import Data

from stofm_geo._keys import NodeType
from stofm_geo.genes import PanelEncoder
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.nn import GaussianRadial, SE2Transformer

_SMALL = 0.02  # standard deviation of the first type embeddings and mask token
_RIDGE = 1e-2  # relative to the mean square of the component embeddings


class SToFMNetwork(nn.Module):
    """SE(2) Transformer over cells, macro nodes and CLS: what the networks of all objectives share.

    With a panel encoder, ``data.x`` are components of the slice; the encoder maps them to features,
    and :meth:`component_decoder` maps features back to components.

    Args:
        in_channels: Size ``F`` of the features.
        config: Configuration.
        encoder: Encoder trained with the network; ``None``: features are ``data.x``.
        inputs: Size of the inputs of the Transformer; ``None``: ``F``.

    Attributes:
        columns: First and last column, exclusive, of each part of an embedding, by name.
    """

    columns: dict[str, tuple[int, int]]

    def __init__(
        self,
        in_channels: int,
        config: SToFMConfig,
        encoder: PanelEncoder | None = None,
        inputs: int | None = None,
    ) -> None:
        super().__init__()
        width = config.hidden_channels
        self.in_channels, self.out_channels = in_channels, config.out_channels
        self.encoder = encoder
        self.embed_features = nn.Linear(inputs or in_channels, width)
        self.embed_type = nn.Embedding(3, width)  # one per NodeType
        # Small: what all cells share would hide what they differ in behind layer normalisation.
        nn.init.normal_(self.embed_type.weight, std=_SMALL)
        self.mask_token = nn.Parameter(_SMALL * torch.randn(width))
        self.transformer = SE2Transformer(
            width,
            config.num_layers,
            config.heads,
            radial=partial(GaussianRadial, num_gaussians=config.num_gaussians),
            dropout=config.dropout,
        )

    def forward(self, data: Data) -> tuple[Tensor, Tensor]:
        """Return embeddings and pair states.

        Args:
            data: A sub-slice or a batch of sub-slices, with ``x``, ``pos``, ``edge_index``,
                ``node_type`` and, in training, ``mask``.

        Returns:
            Embeddings ``[num_nodes, out_channels]`` and the last layer's pair state
            ``[num_edges, heads]``.
        """
        raise NotImplementedError

    def attention(self, data: Data) -> Tensor:
        """Return the attention weights of each edge: ``[num_layers, num_edges, heads]``."""
        return self.transformer.attention(*self.nodes(self.inputs(data), data))

    def inputs(self, data: Data) -> Tensor:
        """Return the inputs of the Transformer, ``[num_nodes, inputs]``."""
        return self.features(data)

    def nodes(self, inputs: Tensor, data: Data) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the Transformer takes: ``[num_nodes, width]``, edges, positions."""
        x = self.embed_features(inputs)
        if "mask" in data:
            x = torch.where(data.mask[:, None], self.mask_token, x)
        x = x + self.embed_type(data.node_type)
        placeless = (data.node_type == NodeType.CLS)[:, None]
        return x, data.edge_index, data.pos.masked_fill(placeless, torch.nan)

    def features(self, data: Data) -> Tensor:
        """Return the features of the nodes, ``[num_nodes, F]``."""
        if self.encoder is None:
            return data.x
        slice_index = data.batch if "batch" in data else torch.zeros_like(data.node_type)
        h = times(data.x, data, self.encoder.component_embeddings)
        return self.encoder.refine(h, data.technology[slice_index])

    def component_decoder(self, panel: Tensor, loadings: Tensor) -> Tensor:
        """Return the matrix from features to the components of a slice, ``[F, components]``.

        It is the pseudo-inverse of the embeddings of the components, so that it inverts the
        encoder, also on new slices. A ridge limits the gain along directions in which the
        embeddings hardly differ.
        """
        assert self.encoder is not None
        axes = self.encoder.component_embeddings(panel, loadings)
        gram = axes @ axes.t()
        ridge = _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), device=gram.device)
        return torch.linalg.solve(gram + ridge, axes).t()


def times(
    rows: Tensor,
    data: Data,
    matrix: Callable[[Tensor, Tensor], Tensor],
    loadings: str = "loadings",
) -> Tensor:
    """Multiply the rows of nodes ``[num_nodes, ..., a]`` by their slice's ``matrix`` ``[a, b]``.

    Args:
        rows: Rows of all nodes.
        data: Sub-slice, or a batch of them.
        matrix: Function of the slice's ``panel`` and loadings.
        loadings: Name of the loadings.
    """
    if "ptr" not in data:
        return rows @ matrix(data.panel, data[loadings])
    by_slice = rows.split(data.ptr.diff().tolist())
    slices = zip(by_slice, data.panel, data[loadings], strict=True)
    return torch.cat([slice_rows @ matrix(*components) for slice_rows, *components in slices])


def cell_edges(data: Data) -> Tensor:
    """Return the edges between cells, ``[2, E]``."""
    cells = data.node_type == NodeType.CELL
    return data.edge_index[:, cells[data.edge_index].all(dim=0)]
