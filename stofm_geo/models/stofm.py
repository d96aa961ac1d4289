"""The one public class: fit on slices, embed slices, save, load."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from anndata import AnnData
from huggingface_hub import ModelHubMixin
from torch import Tensor, nn
from torch.utils.data import ConcatDataset
from torch_geometric.data import Data

from stofm_geo._checks import check_anndatas, check_key, check_positive
from stofm_geo._files import atomic_folder
from stofm_geo._hash import weights_hash
from stofm_geo._keys import Keys
from stofm_geo._version import __version__
from stofm_geo.data.pieces import pieces
from stofm_geo.genes import CellFeatures, ObsmFeatures, PanelEncoder, Vocabulary
from stofm_geo.models import official, storage
from stofm_geo.models.inputs import emptied, split, untrained_features
from stofm_geo.models.locations import locate
from stofm_geo.models.network import Network
from stofm_geo.models.puzzles import puzzles
from stofm_geo.models.settings import Settings
from stofm_geo.models.warm_start import warm_start

if TYPE_CHECKING:
    from stofm_geo.tasks import Annotator


class SToFM(nn.Module, ModelHubMixin):
    """Multi-scale model of tissue: an SE(2) Transformer over cells and virtual cells.

    Example:
        >>> model = SToFM().fit(adata)
        >>> model.embed(adata)  # writes adata.obsm["X_stofm"]
        >>> model.save_pretrained("my-model")
        >>> model = SToFM.from_pretrained("my-model")

    Embeddings do not change when a slice is turned, shifted, rescaled or sorted anew.

    Args:
        settings: Any of :class:`~stofm_geo.models.Settings`, by name.

    Attributes:
        settings: All settings.
        network: The network, or ``None`` before :meth:`fit`.
        features: The encoder from counts to features, or ``None`` before :meth:`fit`.
        training_record: How the weights came about: seed, steps, slices, losses.

    Raises:
        TypeError, ValueError: A setting that does not exist or is out of range.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = Settings(**settings)
        self.network: Network | None = None
        self.features: CellFeatures | None = None
        self.training_record: dict[str, Any] = {}

    @classmethod
    def of(cls, network: Network, settings: Settings, record: dict[str, Any]) -> SToFM:
        """A model of a network that was trained otherwise; one with a panel encoder."""
        model = cls(**asdict(settings))
        model.network, model.features = network, network.encoder
        model.training_record = record
        return model

    def fit(
        self,
        adata: AnnData | list[AnnData],
        *,
        features: str | None = None,
        spatial_key: str = Keys.SPATIAL,
        slice_key: str | None = None,
        max_steps: int = 200,
        seed: int = 0,
        progress: bool = True,
        names: list[str] | None = None,
    ) -> SToFM:
        """Train from scratch, self-supervised: no labels, no pretrained weights.

        Args:
            adata: One or several AnnData with raw counts in ``X``; several must share genes, unless
                the encoder is ``"panel"``.
            features: Key in ``obsm`` of ready-made cell vectors; ``None``: what the setting
                ``encoder`` says makes them of the counts.
            spatial_key: Key in ``obsm`` of the positions, any unit.
            slice_key: Column of ``obs`` that tells slices apart; ``None``: one slice an AnnData.
            max_steps: Training steps, one sub-slice each.
            seed: Of weights, masks and moves; the same seed gives the same weights on the same
                machine with as many threads.
            progress: Show a progress bar.
            names: What messages call each AnnData.

        Returns:
            The model itself.

        Raises:
            KeyError, TypeError, ValueError: Input that does not fit; the message says what.
        """
        from stofm_geo._training import run, seeded
        from stofm_geo.models.pretraining import Pretraining

        check_positive("max_steps", max_steps, whole=True)
        adatas = check_anndatas(adata)
        keys = {"spatial_key": spatial_key, "slice_key": slice_key}
        if names is None:
            names = [f"AnnData {i}" if len(adatas) > 1 else "AnnData" for i in range(len(adatas))]

        def parts(genes: Collection[str] | None = None) -> list[AnnData]:
            found = []
            for one, name in zip(adatas, names, strict=True):
                found += split(one, self.settings, features, name=name, genes=genes, **keys)
            return found

        slices = parts()
        with seeded(seed):
            self.features = untrained_features(self.settings, features, slices)
            if emptied(slices, self._genes()):
                slices = parts(self._genes())
            encoder = self.features if isinstance(self.features, PanelEncoder) else None
            self.network = Network(self.features.out_channels, self.settings, encoder)
            module = Pretraining(self.network, self.settings)
            of_slices = [pieces(part, self.features, **self.settings.of_pieces) for part in slices]
            if encoder is not None:
                warm_start(encoder, [(part[0].panel, part[0].loadings) for part in of_slices])
            loader = puzzles(ConcatDataset(of_slices), self.settings, max_steps)
            run(module, loader, max_steps=max_steps, progress=progress)
        self.network.cpu().eval()
        last = torch.stack([*module.losses]).cpu().mean(dim=0)
        self.training_record = {
            "seed": seed,
            "steps": max_steps,
            "slices": len(slices),
            "cells": sum(part.n_obs for part in slices),
            "niche_loss": float(last[0]),
            "niche_loss_of_averages": float(last[1]),
            "distance_loss": float(last[2]),
            "distance_loss_as_seen": float(last[3]),
        }
        return self

    def embed(
        self,
        adata: AnnData,
        *,
        spatial_key: str = Keys.SPATIAL,
        slice_key: str | None = None,
        key_added: str = Keys.EMBEDDING,
        name: str = "AnnData",
    ) -> None:
        """Write embeddings into ``adata.obsm[key_added]``, ``[n, 256]`` float32, in place.

        ``adata.uns["stofm"]`` tells how they were made: version, settings, seed, a hash of the
        weights, the cell spacing of each slice. Cells without counts (empty bins) take no part,
        and their embedding is 0: leave them out of what does not know that,
        ``adata[adata.obsm["X_stofm"].any(axis=1)]``.

        Args:
            adata: With the genes (or the ``obsm`` vectors) the model was fitted on; for a panel
                encoder, some of them are enough.
            spatial_key: Key in ``obsm`` of the positions.
            slice_key: Column of ``obs`` that tells slices apart; ``None``: all cells are one.
            key_added: Key in ``obsm``.
            name: What messages call ``adata``.

        Raises:
            KeyError, TypeError, ValueError: Input that does not fit; the message says what.
            RuntimeError: The model has not been fitted.
        """
        check_key("key_added", key_added)
        slices = self.slices(adata, spatial_key=spatial_key, slice_key=slice_key, name=name)
        self.eval()
        device = next(self.network.parameters()).device
        vectors = np.zeros((adata.n_obs, self.settings.out_channels), dtype=np.float32)
        for part in slices:
            for piece in self.pieces(part):
                with torch.inference_mode():
                    z = self(piece.to(device))
                # Each cell is core in one piece.
                rows = piece.n_id[piece.core_mask].cpu().numpy()
                vectors[rows] = z[piece.core_mask].cpu().numpy()
        adata.obsm[key_added] = vectors
        adata.uns[Keys.UNS] = self._provenance(slices)

    def fine_tune(
        self, adata: AnnData | list[AnnData], label_key: str, method: str = "probe", **options: Any
    ) -> Annotator:
        """Learn labels; the model itself stays as it is.

        Example:
            >>> annotator = model.fine_tune(adata, "region")
            >>> annotator.predict(other)  # writes other.obs["stofm_label"]

        Args:
            adata: Slices with labels, one or several AnnData.
            label_key: Column of ``obs`` with labels; cells without one are not learned from. The
                words ``nan``, ``None``, ``NA`` and the like are no labels, and whole numbers are
                the same label as integers, floats and text.
            method: ``"probe"`` (default), ``"mlp"``, ``"lora"`` or ``"full"``: what is trained.
            options: Of :func:`stofm_geo.tasks.fine_tune`: ``task``, ``slice_key``, ``held_out``,
                ``max_steps``, ``seed``, ...

        Raises:
            KeyError, TypeError, ValueError: Input that does not fit; the message says what.
            ImportError: ``method="lora"`` without peft.
            RuntimeError: The model has not been fitted.
        """
        from stofm_geo.tasks import fine_tune  # which needs models

        return fine_tune(self, adata, label_key, method, **options)

    def slices(
        self,
        adata: AnnData,
        *,
        spatial_key: str = Keys.SPATIAL,
        slice_key: str | None = None,
        name: str = "AnnData",
    ) -> list[AnnData]:
        """The slices of an AnnData as the model takes them, checked.

        Args:
            adata: As for :meth:`embed`.
            spatial_key: Key in ``obsm`` of the positions.
            slice_key: Column of ``obs`` that tells slices apart; ``None``: all cells are one.
            name: What messages call ``adata``.

        Returns:
            See :func:`~stofm_geo.data.split_slices`.

        Raises:
            KeyError, TypeError, ValueError: Input that does not fit; the message says what.
            RuntimeError: The model has not been fitted.
        """
        self._check_fitted()
        keys = {"spatial_key": spatial_key, "slice_key": slice_key, "name": name}
        return split(adata, self.settings, self._features_key(), genes=self._genes(), **keys)

    def pieces(self, part: AnnData) -> Sequence[Data]:
        """Sub-slices of one of :meth:`slices`, each cut when it is asked for."""
        return pieces(part, self.features, **self.settings.of_pieces)

    def forward(self, data: Data) -> Tensor:
        """Embed the nodes of a sub-slice: ``[num_nodes, out_channels]``.

        Args:
            data: A graph from :mod:`stofm_geo.transforms` (``SpatialKNN``, ``MacroNodes``,
                ``SubSlices``), or a batch of them, with ``x`` as the model's features make it.
        """
        self._check_fitted()
        return self.network(data)[0]

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:
        """Write ``config.json`` and ``model.safetensors`` (Hugging Face hub layout) into a folder.

        A kill at any moment leaves the model that was there or the new one.

        Args:
            save_directory: Made if it is not there; other files in it stay.
            kwargs: Of ``huggingface_hub.ModelHubMixin.save_pretrained`` (``push_to_hub``, ...).

        Raises:
            OSError: It cannot be written.
            RuntimeError: The model has not been fitted.
        """
        self._check_fitted()
        folder, push = Path(save_directory), kwargs.pop("push_to_hub", False)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder, storage.FILES, keep_others=True) as temporary:
            super().save_pretrained(temporary, **kwargs)
        if not push:
            return None
        return self.push_to_hub(**{"repo_id": folder.name, **kwargs})

    def _save_pretrained(self, save_directory: Path) -> None:
        storage.save(self, save_directory)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **hub: Any) -> SToFM:
        """Load a model from a folder, one that comes with the library, or one of the hub.

        Args:
            pretrained_model_name_or_path: A folder that :meth:`save_pretrained` has written;
                ``"stofm-geo-mini"``, which is installed with the library; or a repository of the
                Hugging Face hub.
            hub: Of ``huggingface_hub.hf_hub_download``: ``revision``, ``cache_dir``, ``token``,
                ``force_download``, ``local_files_only``.

        Raises:
            ValueError: It is none of these, is damaged, or is no model of this library.
        """
        return storage.load(*locate(str(pretrained_model_name_or_path), hub))

    @classmethod
    def from_official(
        cls,
        folder: str | Path,
        attention: str = "slice",
        *,
        vocabulary: Vocabulary | str | Path | None = None,
    ) -> official.OfficialSToFM:
        """Load a checkpoint of the published SToFM; see :func:`stofm_geo.models.official.load`."""
        return official.load(folder, attention, vocabulary=vocabulary)

    def check_features(self, key: str | None) -> None:
        """Whether the model takes ``obsm[key]``, or counts where ``key`` is ``None``.

        Raises:
            ValueError: It takes something else.
        """
        own = self._features_key()
        if key != own:
            takes = "counts in X" if own is None else f"obsm[{own!r}]"
            asked = "counts in X" if key is None else f"obsm[{key!r}]"
            raise ValueError(f"the model was trained for {takes}, not for {asked}")

    def weights_hash(self) -> str:
        """SHA-256 over names, shapes and bytes of all weights, features included."""
        return weights_hash(storage.tensors(self))

    def _features_key(self) -> str | None:
        """Key in ``obsm`` of the features, ``None`` for counts."""
        return self.features.key if isinstance(self.features, ObsmFeatures) else None

    def _genes(self) -> Collection[str] | None:
        """Names of the genes that features are made of; ``None`` for vectors in ``obsm``."""
        return getattr(self.features, "genes", None)

    def _check_fitted(self) -> None:
        if self.network is None:
            raise RuntimeError("this model has no weights; call fit() or from_pretrained() first")

    def _provenance(self, slices: list[AnnData]) -> dict[str, Any]:
        return {
            "version": __version__,
            "settings": asdict(self.settings),
            "training": self.training_record,
            "features": repr(self.features),
            "seed": self.training_record["seed"],
            "weights_sha256": self.weights_hash(),
            "units": "cell spacings: median distance to the 6th nearest cell is 1",
            "slices": np.array([part.uns["name"] for part in slices]),
            "spacing_of_slice": np.array([part.uns["unit"] for part in slices]),
        }
