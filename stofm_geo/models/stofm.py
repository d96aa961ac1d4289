"""The one public class: fit on slices, embed slices, save, load."""

from __future__ import annotations

import copy
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from anndata import AnnData
from huggingface_hub import ModelHubMixin

from stofm_geo._anndata_checks import check_target, numbered
from stofm_geo._files import atomic_folder
from stofm_geo._keys import Keys
from stofm_geo._progress import track
from stofm_geo._validation import check_model_output, check_positive
from stofm_geo._version import __version__
from stofm_geo.data import TissueSlice
from stofm_geo.genes import CellFeatures, Vocabulary
from stofm_geo.models import official
from stofm_geo.models.hub import locate
from stofm_geo.models.prepare import (
    PreparedTissue,
    SliceKeys,
    SliceOptions,
    Tissues,
    fit_encoder,
    list_of,
)
from stofm_geo.networks.config import SToFMConfig
from stofm_geo.networks.files import FILES
from stofm_geo.networks.state import ModelState, TrainingRecord
from stofm_geo.networks.stofm import SToFMNetwork

if TYPE_CHECKING:
    from typing_extensions import Unpack


class SToFM(ModelHubMixin):
    """Multi-scale model of tissue: an SE(2) Transformer over cells and macro nodes.

    Embeddings are invariant to rotation, translation, scale and row order of a slice.

    Args:
        config: Fields of :class:`~stofm_geo.SToFMConfig`, by name.

    Attributes:
        config: The configuration.
        network: The network, a ``torch.nn.Module``; ``None`` before :meth:`fit`.
        encoder: The encoder from counts to features; ``None`` before :meth:`fit`.
        training_record: How the weights were trained: seed, steps, slices, losses.

    Raises:
        TypeError, ValueError: A setting that does not exist or is out of range.

    Examples:
        >>> from stofm_geo import SToFM, datasets
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> model = SToFM(out_channels=128).fit(adata, max_steps=2, progress=False)
        >>> model.embed(adata, progress=False)
        >>> adata.obsm["X_stofm"].shape
        (200, 128)
    """

    def __init__(self, **config: Any) -> None:
        options = [field.name for field in fields(SToFMConfig)]
        if unknown := [name for name in config if name not in options]:
            raise TypeError(f"SToFM has no option {unknown[0]!r}; it has {', '.join(options)}")
        self.config = SToFMConfig(**config)
        self._objectives = self.config.objectives  # as asked for; fit() chooses where it is None
        self.network: SToFMNetwork | None = None
        self.encoder: CellFeatures | None = None
        self.training_record: TrainingRecord = {}

    @classmethod
    def from_state(cls, state: ModelState) -> SToFM:
        """Make a model from a state, such as :attr:`state` of another model.

        Args:
            state: Configuration, network, encoder and record; they are not copied.

        Examples:
            >>> from stofm_geo import SToFM
            >>> model = SToFM.from_pretrained("stofm-geo-mini")
            >>> SToFM.from_state(model.state).weights_hash() == model.weights_hash()
            True
        """
        model = cls(**asdict(state.config))
        model.network, model.encoder = state.network, state.encoder
        model.training_record = state.record
        return model

    @property
    def state(self) -> ModelState:
        """Configuration, network, encoder and record.

        Raises:
            RuntimeError: The model has not been fitted.

        Examples:
            >>> from stofm_geo import SToFM
            >>> model = SToFM.from_pretrained("stofm-geo-mini")
            >>> model.state.encoder is model.encoder, model.state.config == model.config
            (True, True)
        """
        self._check_fitted()
        assert self.network is not None and self.encoder is not None
        return ModelState(self.config, self.network, self.encoder, self.training_record)

    def _check_fitted(self) -> None:
        if self.network is None or self.encoder is None:
            raise RuntimeError("this model has no weights; call fit() or from_pretrained() first")

    def __repr__(self) -> str:
        state = "not fitted" if self.network is None else f"weights {self.weights_hash()[:12]}"
        return f"SToFM(encoder={self.config.encoder!r}, {state})"

    def to(self, device: torch.device | str) -> SToFM:
        """Move the network, and an encoder that is trained with it, to a device.

        Args:
            device: Such as ``"cuda"``.

        Returns:
            The model itself.

        Raises:
            RuntimeError: The model has not been fitted.

        Examples:
            >>> from stofm_geo import SToFM
            >>> model = SToFM.from_pretrained("stofm-geo-mini").to("cpu")
            >>> {weight.device.type for weight in model.network.parameters()}
            {'cpu'}
        """
        self.state.network.to(device)
        return self

    def prepare(
        self,
        adata: AnnData,
        *,
        use_rep: str | None = None,
        spatial_key: str = Keys.SPATIAL,
        slice_key: str | None = None,
        layer: str | None = None,
        name: str = "AnnData",
    ) -> PreparedTissue:
        """Check an AnnData and split it into slices, once for :meth:`fit`, :meth:`embed` and tasks.

        Neighbours and macro nodes are then found once for all steps.

        Args:
            adata: Cells or spots.
            use_rep: Key in ``obsm`` of ready-made cell vectors; ``None``: those that the model was
                fitted to, or, before :meth:`fit`, counts in ``X``.
            spatial_key: Key in ``obsm`` of the positions, any unit.
            slice_key: Column of ``obs`` with the slice of each cell; ``None``: one slice.
            layer: Layer with the raw counts; ``None``: they are in ``X``.
            name: Name of ``adata`` in messages.

        Returns:
            The prepared tissue, with ``adata`` and its ``slices``, a list of
            :class:`~stofm_geo.data.TissueSlice`.

        Raises:
            KeyError, TypeError, ValueError: Input that does not fit; the message says what.

        Examples:
            >>> from stofm_geo import SToFM, datasets
            >>> adata = datasets.toy_tissue(200, 30, n_slices=2, seed=0)
            >>> model = SToFM()
            >>> prepared = model.prepare(adata, slice_key="slice_id")
            >>> [len(part) for part in prepared.slices]
            [100, 100]
            >>> model.fit(prepared, max_steps=2, progress=False).embed(prepared, progress=False)
        """
        encoder = self.encoder
        return PreparedTissue(
            adata,
            self.config,
            use_rep if encoder is None else encoder.key,
            spatial_key=spatial_key,
            slice_key=slice_key,
            layer=layer,
            name=name,
            genes=None if encoder is None else encoder.genes,
        )

    def prepared(
        self, adata: AnnData | PreparedTissue, **keys: Unpack[SliceOptions]
    ) -> PreparedTissue:
        """Return ``adata`` if it is prepared already, else :meth:`prepare` it.

        Args:
            adata: AnnData, or a result of :meth:`prepare`.
            keys: ``spatial_key``, ``slice_key``, ``layer`` and ``name`` of :meth:`prepare`, for an
                AnnData.

        Raises:
            RuntimeError: The model has not been fitted.
            ValueError: It was prepared for another model.

        Examples:
            >>> from stofm_geo import SToFM, datasets
            >>> adata = datasets.toy_tissue(200, 30, seed=0)
            >>> model = SToFM().fit(adata, max_steps=2, progress=False)
            >>> prepared = model.prepared(adata)
            >>> model.prepared(prepared) is prepared
            True
        """
        self._check_fitted()
        if not isinstance(adata, PreparedTissue):
            return self.prepare(adata, **keys)
        encoder, other = self.state.encoder, adata.config
        same = other.subslice_options == self.config.subslice_options
        if not same or other.organism != self.config.organism or adata.use_rep != encoder.key:
            raise ValueError(
                f"{adata.name} was prepared for a model of another configuration; call prepare() "
                "of this model"
            )
        adata.drop_empty(encoder.genes)
        return adata

    def copy(self) -> SToFM:
        """Return a model with a network of its own, on the CPU.

        Raises:
            RuntimeError: The model has not been fitted.

        Examples:
            >>> from stofm_geo import SToFM
            >>> model = SToFM.from_pretrained("stofm-geo-mini")
            >>> copied = model.copy()
            >>> copied.network is model.network, copied.weights_hash() == model.weights_hash()
            (False, True)
        """
        new = copy.copy(self)
        new.network = copy.deepcopy(self.state.network).cpu()
        if new.network.encoder is not None:
            new.encoder = new.network.encoder
        return new

    def fit(
        self,
        adata: Tissues,
        *,
        use_rep: str | None = None,
        spatial_key: str = Keys.SPATIAL,
        slice_key: str | None = None,
        layer: str | None = None,
        max_steps: int | None = None,
        seed: int = 0,
        progress: bool = True,
        names: list[str] | None = None,
    ) -> SToFM:
        """Train from scratch, self-supervised: no labels, no pretrained weights.

        Args:
            adata: One or several AnnData with raw counts in ``X``, or results of :meth:`prepare`,
                whose keys are used; several must share genes, unless the encoder is ``"panel"``.
            use_rep: Key in ``obsm`` of ready-made cell vectors; ``None``: the encoder of the
                configuration makes them of the counts.
            spatial_key: Key in ``obsm`` of the positions, any unit.
            slice_key: Column of ``obs`` with the slice of each cell; ``None``: one slice an
                AnnData.
            layer: Layer with the raw counts; ``None``: they are in ``X``.
            max_steps: Training steps at most, one sub-slice each; ``None``: 600 if molecules are
                held out, else 80 (``objectives`` of :class:`~stofm_geo.SToFMConfig`). Training ends
                earlier when the loss on what is held out no longer falls; the best weights are
                kept.
            seed: Seed of weights, masks and moves; the same seed gives the same weights on the
                same machine with as many threads.
            progress: Show a progress bar.
            names: Name of each AnnData in messages.

        Returns:
            The model itself.

        Raises:
            KeyError, TypeError, ValueError: Input that does not fit; the message says what.

        Examples:
            >>> from stofm_geo import SToFM, datasets
            >>> adata = datasets.toy_tissue(200, 30, seed=0)
            >>> model = SToFM().fit(adata, max_steps=2, progress=False)
            >>> model.training_record["steps"], model.training_record["cells"]
            (2, 200)
        """
        from stofm_geo.training.slice_pretrain import objective_of, pretrain_slices
        from stofm_geo.training.trainer import seed_context

        if max_steps is not None:
            check_positive("max_steps", max_steps, whole=True)
        given = list_of(adata)
        if names is None:
            names = numbered("AnnData", len(given))
        keys: SliceKeys = {"spatial_key": spatial_key, "slice_key": slice_key, "layer": layer}
        tissues = [
            one
            if isinstance(one, PreparedTissue)
            else PreparedTissue(one, self.config, use_rep, name=name, **keys)
            for one, name in zip(given, names, strict=True)
        ]
        parts = [part for tissue in tissues for part in tissue.slices]
        with seed_context(seed):
            use_rep = tissues[0].use_rep
            objectives = objective_of(self._objectives, self.config.encoder, use_rep, parts)
            self.config = replace(self.config, objectives=objectives)
            encoder = fit_encoder(self.config, use_rep, parts)
            for tissue in tissues:
                tissue.drop_empty(encoder.genes)
            slices = [own for tissue in tissues for own in tissue.subslices(encoder)]
            self.network, self.training_record = pretrain_slices(
                self.config, encoder, slices, max_steps, seed=seed, progress=progress
            )
        self.encoder = encoder
        return self

    def embed(
        self,
        adata: AnnData | PreparedTissue,
        *,
        spatial_key: str = Keys.SPATIAL,
        slice_key: str | None = None,
        layer: str | None = None,
        key_added: str = Keys.EMBEDDING,
        progress: bool = True,
        name: str = "AnnData",
    ) -> None:
        """Write embeddings into ``adata.obsm[key_added]``, in place.

        They are ``[n, out_channels]`` float32; ``out_channels`` of the configuration is 256 by
        default.
        ``adata.uns["stofm"]`` tells how they were made: version, settings, seed, a hash of the
        weights, the cell spacing of each slice. Cells without counts (empty bins) take no part,
        and their embedding is 0: leave them out of what does not know that,
        ``adata[adata.obsm["X_stofm"].any(axis=1)]``.

        Args:
            adata: Cells or spots with the genes (or the ``obsm`` vectors) that the model was fitted
                on; for a panel encoder, some of the genes are enough. Or a result of
                :meth:`prepare`, whose keys are used.
            spatial_key: Key in ``obsm`` of the positions, any unit.
            slice_key: Column of ``obs`` with the slice of each cell; ``None``: one slice.
            layer: Layer with the raw counts; ``None``: they are in ``X``.
            key_added: Key in ``obsm`` that is written.
            progress: Show a progress bar.
            name: Name of ``adata`` in messages.

        Raises:
            KeyError, TypeError, ValueError: Input that does not fit; the message says what.
            RuntimeError: The model has not been fitted.

        Examples:
            >>> from stofm_geo import SToFM, datasets
            >>> adata = datasets.toy_tissue(200, 30, seed=0)
            >>> model = SToFM().fit(adata, max_steps=2, progress=False)
            >>> model.embed(adata, key_added="X_mine", progress=False)
            >>> adata.obsm["X_mine"].shape, str(adata.obsm["X_mine"].dtype)
            ((200, 256), 'float32')
        """
        keys: SliceKeys = {"spatial_key": spatial_key, "slice_key": slice_key, "layer": layer}
        tissue = self.prepared(adata, name=name, **keys)
        adata = tissue.adata
        check_target(adata, key_added, spatial_key=tissue.spatial_key, use_rep=tissue.use_rep)
        network, encoder = self.state.network.eval(), self.state.encoder
        device = next(network.parameters()).device
        vectors = np.zeros((adata.n_obs, self.config.out_channels), dtype=np.float32)
        every = tissue.subslices(encoder)
        subslices = (subslice for of_slice in every for subslice in of_slice)
        count = sum(len(of_slice) for of_slice in every)
        for subslice in track(subslices, "Embedding", count, show=progress):
            with torch.inference_mode():
                z, _ = network(subslice.to(device))
            # Each cell is core in one sub-slice.
            rows = subslice.n_id[subslice.core_mask].cpu().numpy()
            vectors[rows] = z[subslice.core_mask].cpu().numpy()
        check_model_output(vectors, tissue.name, "embeddings")
        adata.obsm[key_added] = vectors
        adata.uns[Keys.UNS] = self._provenance(tissue.slices)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> str | None:
        """Write ``config.json`` and ``model.safetensors`` (Hugging Face hub layout) into a folder.

        The hub's library adds a ``README.md``, the model card, if there is none. If the process is
        killed, the folder holds the previous model or the new one.

        Args:
            save_directory: Folder; created if it does not exist; other files in it stay.
            kwargs: Arguments of ``huggingface_hub.ModelHubMixin.save_pretrained``
                (``push_to_hub``, ...).

        Returns:
            With ``push_to_hub``, the address of the commit; else ``None``.

        Raises:
            OSError: It cannot be written.
            RuntimeError: The model has not been fitted.

        Examples:
            >>> import os, tempfile
            >>> from stofm_geo import SToFM
            >>> model = SToFM.from_pretrained("stofm-geo-mini")
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     model.save_pretrained(folder)
            ...     print(sorted(os.listdir(folder)))
            ['README.md', 'config.json', 'model.safetensors']
        """
        self._check_fitted()
        folder, push = Path(save_directory), kwargs.pop("push_to_hub", False)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with atomic_folder(folder, FILES, keep_others=True) as temporary:
            super().save_pretrained(temporary, **kwargs)
        if not push:
            return None
        return self.push_to_hub(**{"repo_id": folder.name, **kwargs})

    def _save_pretrained(self, save_directory: Path) -> None:
        self.state.save(save_directory)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **hub: Any) -> SToFM:
        """Load a model from a folder, one that comes with the library, or one of the hub.

        Args:
            pretrained_model_name_or_path: A folder that :meth:`save_pretrained` has written;
                ``"stofm-geo-mini"``, which is installed with the library; or a repository of the
                Hugging Face hub.
            hub: Arguments of ``huggingface_hub.hf_hub_download``: ``revision``, ``cache_dir``,
                ``token``, ``force_download``, ``local_files_only``.

        Returns:
            The model, on the CPU.

        Raises:
            ValueError: It is none of these, is damaged, or is no model of this library.

        Examples:
            >>> from stofm_geo import SToFM
            >>> model = SToFM.from_pretrained("stofm-geo-mini")
            >>> model.config.encoder, model.config.out_channels
            ('panel', 256)
        """
        files = locate(str(pretrained_model_name_or_path), hub)
        return cls.from_state(ModelState.load(*files))

    @classmethod
    def from_official(
        cls,
        folder: str | Path,
        attention: str = "slice",
        *,
        vocabulary: Vocabulary | str | Path | None = None,
    ) -> official.OfficialSToFM:
        """Load a checkpoint of the published SToFM; see :func:`stofm_geo.models.official.load`.

        Args:
            folder: Folder of the checkpoint.
            attention: ``"slice"`` as published, or ``"edges"``.
            vocabulary: Tokens of the cell encoder, or their file or folder; ``None``: they are in
                ``folder``.

        Returns:
            The published model, a ``torch.nn.Module`` with a method ``embed``; not a ``SToFM``.

        Raises:
            FileNotFoundError: A file does not exist.
            ImportError: The cell encoder needs ``transformers``.
            ValueError: Files cannot be read, or do not fit each other.

        Examples:
            >>> import tempfile
            >>> from stofm_geo import SToFM
            >>> from stofm_geo.models import official
            >>> from stofm_geo.models.official.network import Config
            >>> with tempfile.TemporaryDirectory() as folder:  # here a tiny checkpoint, not trained
            ...     network = official.OfficialNetwork(Config(1, 8, 8, 2, 4, input_dim=8))
            ...     official.save(network, folder)
            ...     model = SToFM.from_official(folder)
            >>> type(model).__name__, model.network.config.input_dim
            ('OfficialSToFM', 8)
        """
        return official.load(folder, attention, vocabulary=vocabulary)

    def check_features(self, key: str | None) -> None:
        """Check that the model takes ``obsm[key]``, or counts where ``key`` is ``None``.

        Args:
            key: Key in ``obsm``, or ``None``.

        Raises:
            RuntimeError: The model has not been fitted.
            ValueError: It takes something else.

        Examples:
            >>> from stofm_geo import SToFM
            >>> model = SToFM.from_pretrained("stofm-geo-mini")
            >>> model.check_features(None)
            >>> model.check_features("X_pca")
            Traceback (most recent call last):
            ValueError: the model was trained for counts in X, not for obsm['X_pca']
        """
        own = self.state.encoder.key
        if key != own:
            takes = "counts in X" if own is None else f"obsm[{own!r}]"
            asked = "counts in X" if key is None else f"obsm[{key!r}]"
            raise ValueError(f"the model was trained for {takes}, not for {asked}")

    def weights_hash(self) -> str:
        """Return the SHA-256 of names, shapes and bytes of all weights, the encoder's included.

        Raises:
            RuntimeError: The model has not been fitted.

        Examples:
            >>> from stofm_geo import SToFM
            >>> len(SToFM.from_pretrained("stofm-geo-mini").weights_hash())
            64
        """
        return self.state.weights_hash()

    def _provenance(self, slices: list[TissueSlice]) -> dict[str, Any]:
        return {
            "version": __version__,
            "settings": asdict(self.config),
            "training": self.training_record,
            "features": repr(self.encoder),
            "seed": self.training_record["seed"],
            "weights_sha256": self.weights_hash(),
            "units": "cell spacings: median distance to the 6th nearest cell is 1",
            "slices": np.array([part.name for part in slices]),
            "spacing_of_slice": np.array([part.spacing for part in slices]),
        }
