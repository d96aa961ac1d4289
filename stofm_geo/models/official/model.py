"""The published model with its cell encoder: AnnData in, published embeddings out."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from stofm_geo._anndata_checks import check_anndata, check_obsm, check_positions, check_target
from stofm_geo._files import atomic_folder
from stofm_geo._hash import weights_hash
from stofm_geo._keys import Keys
from stofm_geo._slices import label_slices
from stofm_geo._validation import check_model_output, error_context
from stofm_geo._version import __version__
from stofm_geo.data.slices import check_enough, rows_by_slice, with_counts
from stofm_geo.genes import RankEncoder, Vocabulary, as_counts
from stofm_geo.genes.vocabulary import FILE, MEDIANS, TOKENS
from stofm_geo.models.official import checkpoint
from stofm_geo.models.official.macro import macro_nodes
from stofm_geo.models.official.network import OfficialNetwork
from stofm_geo.models.official.slices import iter_subslices

_ENCODER = "cell_encoder"
_BATCH = 4  # sub-slices at once, as published


class OfficialSToFM(nn.Module):
    """The published SToFM (arXiv 2507.11588).

    Args:
        network: The SE(2) Transformer.
        cell_encoder: From counts to cell vectors; ``None`` where vectors come from ``obsm``.

    Examples:
        >>> from stofm_geo import SToFM
        >>> model = SToFM.from_official("folder", vocabulary="geneformer")  # doctest: +SKIP
        >>> model.embed(adata)  # doctest: +SKIP
    """

    def __init__(self, network: OfficialNetwork, cell_encoder: RankEncoder | None = None) -> None:
        super().__init__()
        self.network = network
        self.cell_encoder = cell_encoder
        self.no_encoder = "this model has no cell encoder"  # why, where there is none

    def forward(
        self, data: Data, return_pairs: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Embed the nodes of sub-slices; see :meth:`OfficialNetwork.forward`."""
        return self.network(data, return_pairs)

    def check_features(self, key: str | None) -> None:
        """Check that cell vectors are available, from ``obsm[key]`` or from counts.

        Raises:
            ValueError: They cannot, and why.
        """
        if key is None and self.cell_encoder is None:
            raise ValueError(
                f"{self.no_encoder}; or name cell vectors in obsm that it has made (use_rep)"
            )

    def embed(
        self,
        adata: AnnData,
        *,
        use_rep: str | None = None,
        spatial_key: str = Keys.SPATIAL,
        slice_key: str | None = None,
        key_added: str = Keys.EMBEDDING,
        cells_per_subslice: int = 1000,
        alpha: float = 0.2,
        resolution: float = 1.0,
        name: str = "AnnData",
    ) -> None:
        """Write embeddings into ``adata.obsm[key_added]``, ``[n, 256]`` float32, in place.

        The vectors of the cell encoder are kept in ``adata.obsm["X_cell_<hash of its weights>"]``
        and taken from there the next time. ``adata.uns["stofm"]`` tells how all was made. Cells
        without counts take no part, and their embedding is 0.

        Args:
            adata: Raw counts in ``X`` and Ensembl ids, unless ``use_rep`` is given.
            use_rep: Key in ``obsm`` of vectors of the published cell encoder; ``None``: made
                here.
            spatial_key: Key in ``obsm`` of the positions, any unit.
            slice_key: Column of ``obs`` that tells slices apart; ``None``: all cells are one.
            key_added: Key in ``obsm``.
            cells_per_subslice: As published, 1000.
            alpha: Share of the position in the clustering of virtual cells, as published 0.2.
            resolution: Of the clustering of virtual cells, as published 1.
            name: What messages call ``adata``.

        Raises:
            KeyError, TypeError, ValueError: Input that does not fit; the message says what.
        """
        check_anndata(adata, name)
        check_target(adata, key_added, spatial_key=spatial_key, use_rep=use_rep)
        with error_context(name):
            if adata.n_obs == 0:
                raise ValueError("there are no cells")
            positions = check_positions(adata, spatial_key)
            vectors = self._cell_vectors(adata, use_rep)
            full = np.ones(adata.n_obs, dtype=bool)
            if use_rep is None:
                full = with_counts(as_counts(adata, copy=False), adata.var_names)
            labels = label_slices(adata, positions, spatial_key, slice_key, beside=True)
        made = np.zeros((adata.n_obs, self.network.config.embedding_dim), dtype=np.float32)
        for slice_name, rows in rows_by_slice(labels, name).items():
            with error_context(slice_name):
                rows = rows[full[rows]]
                check_enough(len(rows), 1)
                pos, x = positions[rows], vectors[rows]
                macro = macro_nodes(pos, x, alpha, resolution)
                subslices = iter_subslices(pos, x, *macro, cells_per_subslice)
                made[rows] = self.embed_subslices(subslices, len(rows))
        check_model_output(made, name, "embeddings")
        adata.obsm[key_added] = made
        adata.uns[Keys.UNS] = {
            "version": __version__,
            "model": "published SToFM",
            "attention": self.network.attention,
            "weights_sha256": weights_hash(self.network.state_dict()),
            "features": self._vectors_key(use_rep),
            "cells_per_subslice": cells_per_subslice,
            "alpha": alpha,
            "resolution": resolution,
        }

    @torch.inference_mode()
    def embed_subslices(self, subslices: Iterable[Data], cells: int) -> np.ndarray:
        """Return the embeddings ``[cells, D]`` float32 of a slice from its sub-slices."""
        device = self.network.embedding_layer.weight.device
        made = np.empty((cells, self.network.config.embedding_dim), dtype=np.float32)
        self.eval()
        subslices = iter(subslices)
        while some := list(islice(subslices, _BATCH)):
            batch = Batch.from_data_list(some)
            z = self(batch.to(device)).cpu().numpy()
            row = batch.n_id.cpu().numpy()
            made[row[row >= 0]] = z[row >= 0]
        return made

    def _vectors_key(self, use_rep: str | None) -> str:
        """Return the key in ``obsm`` of the cell vectors."""
        if use_rep is not None:
            return use_rep
        assert self.cell_encoder is not None  # of check_features
        return self.cell_encoder.vectors_key

    def _cell_vectors(self, adata: AnnData, key: str | None) -> np.ndarray:
        self.check_features(key)
        if key is None:
            assert self.cell_encoder is not None  # of check_features
            self.cell_encoder.annotate(adata)
        key = self._vectors_key(key)
        vectors = check_obsm(adata, key, as_is=True).astype(np.float32, copy=False)
        if vectors.shape[1] != (wanted := self.network.config.input_dim):
            raise ValueError(
                f"obsm[{key!r}] has {vectors.shape[1]} columns, the model takes {wanted}; "
                "name vectors that the published cell encoder has made"
            )
        return vectors


def load(
    folder: str | Path,
    attention: str = "slice",
    *,
    vocabulary: Vocabulary | str | Path | None = None,
) -> OfficialSToFM:
    """Read a published checkpoint.

    Args:
        folder: ``config.json``, ``se2transformer.pth`` and, where counts are to be embedded,
            ``cell_encoder/cell_bert/`` and ``cell_encoder/cell_proj.bin``.
        attention: ``"slice"`` as published, or ``"edges"``; see :class:`OfficialNetwork`.
        vocabulary: What the cell encoder's tokens mean: a folder with Geneformer's dictionaries or
            a JSON file (:meth:`~stofm_geo.genes.Vocabulary.read`). ``None``: they lie in
            ``folder``; where they do not, vectors must come from ``obsm``.

    Returns:
        The model in evaluation mode.

    Raises:
        FileNotFoundError: A file is not there.
        ImportError: There is a cell encoder and a vocabulary, but no ``transformers``.
        ValueError: Files that cannot be read or do not fit each other; all misfits are listed.
    """
    folder = Path(folder)
    model = OfficialSToFM(checkpoint.read(folder, attention))
    if not (folder / _ENCODER).is_dir():
        model.no_encoder = f"{folder} has no folder {_ENCODER}, so counts cannot be embedded"
    elif vocabulary is None and not any((folder / file).is_file() for file in (TOKENS, FILE)):
        model.no_encoder = (
            f"{folder}: the cell encoder's vocabulary is not known: name the folder of "
            f"Geneformer's {TOKENS} and {MEDIANS}, or a {FILE} (vocabulary)"
        )
    else:
        if not isinstance(vocabulary, Vocabulary):
            vocabulary = Vocabulary.read(vocabulary or folder)
        model.cell_encoder = RankEncoder.from_folder(folder / _ENCODER, vocabulary)
    return model.eval()


def save(model: OfficialSToFM | OfficialNetwork, folder: str | Path) -> None:
    """Write a checkpoint in the published layout, which the published code reads.

    Heads of pre-training go into ``pretraining_heads.pth``, which the published code leaves alone.

    Args:
        model: With its cell encoder, or the network alone.
        folder: Made if it is not there; other files in it stay.

    Raises:
        OSError: It cannot be written.
    """
    network = model.network if isinstance(model, OfficialSToFM) else model
    encoder = model.cell_encoder if isinstance(model, OfficialSToFM) else None
    files = [*checkpoint.FILES] if encoder is None else [*checkpoint.FILES, _ENCODER]
    Path(folder).parent.mkdir(parents=True, exist_ok=True)
    with atomic_folder(folder, files, keep_others=True) as temporary:
        checkpoint.write(network, temporary)
        if encoder is not None:
            (temporary / _ENCODER).mkdir()
            encoder.write(temporary / _ENCODER)
