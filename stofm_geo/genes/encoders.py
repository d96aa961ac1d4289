"""The interface of encoders, from counts to one feature vector per cell, and their registry."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Protocol

import numpy as np
from anndata import AnnData

from stofm_geo._registry import Registry
from stofm_geo.genes.obsm_encoder import ObsmFeatures
from stofm_geo.genes.panel_encoder import PanelEncoder
from stofm_geo.genes.pca_encoder import PCAFeatures


class CellFeatures(Protocol):
    """Interface of an encoder, from slices to one vector per cell.

    Attributes:
        out_channels: Size of a vector.
        genes: Names of the genes; ``None`` for vectors in ``obsm``.
        key: Key of the vectors in ``obsm``; ``None`` for counts in ``X``.
        module: The encoder itself if it is trained with the network, else ``None``.

    An encoder that was fitted without some of the molecules, which training can hold out
    (:mod:`stofm_geo.training.objectives.molecules`), has ``components`` and ``fractions``
    (:class:`~stofm_geo.genes.components.Components`,
    :class:`~stofm_geo.genes.fractions.FractionComponents`), and methods ``known_counts`` and
    ``fractions_of``: of an AnnData, the counts that both are made of, and ``fractions`` for these.

    Examples:
        >>> from stofm_geo import datasets
        >>> from stofm_geo.genes import CellFeatures, PCAFeatures
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> encoder: CellFeatures = PCAFeatures(8).fit([adata])
        >>> encoder.transform(adata).shape == (adata.n_obs, encoder.out_channels)
        True
        >>> len(encoder.genes), encoder.key, encoder.module
        (30, None, None)
    """

    @property
    def out_channels(self) -> int: ...  # noqa: D102

    @property
    def genes(self) -> Collection[str] | None: ...  # noqa: D102

    @property
    def key(self) -> str | None: ...  # noqa: D102

    @property
    def module(self) -> PanelEncoder | None: ...  # noqa: D102

    def transform(self, adata: AnnData) -> np.ndarray:
        """Return the vectors ``[n, out_channels]`` float32."""

    def state(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return settings (JSON) and arrays from which :meth:`from_state` rebuilds the encoder.

        ``settings["kind"]`` is the name under which the encoder is registered.
        """

    @classmethod
    def from_state(cls, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> CellFeatures:
        """Rebuild the encoder of a :meth:`state`, without weights that the network holds.

        Raises:
            KeyError, TypeError, ValueError: A part is missing or invalid.
        """


class CountsEncoder(CellFeatures, Protocol):
    """Interface of an encoder of counts, a value of ``SToFMConfig.encoder``.

    A class with these methods and those of :class:`CellFeatures` is registered by
    :func:`register_encoder`.

    Examples:
        >>> from stofm_geo import datasets
        >>> from stofm_geo.genes import CountsEncoder, PCAFeatures
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> kind: type[CountsEncoder] = PCAFeatures
        >>> kind.from_slices([adata], n_components=8, out_channels=51).out_channels
        8
    """

    @classmethod
    def from_slices(
        cls, slices: list[AnnData], *, n_components: int, out_channels: int
    ) -> CountsEncoder:
        """Fit an encoder to slices, or make one that is trained with the network.

        Args:
            slices: Counts in ``X``.
            n_components: ``SToFMConfig.n_components``.
            out_channels: Suggested size of a vector, such that an embedding holds three (cell, one
                hop, two hops); an encoder may choose another.
        """


ENCODERS: Registry[type[CountsEncoder]] = Registry(
    "encoder", "register your own by stofm_geo.genes.register_encoder first"
)
_OBSM = "obsm"  # existing vectors: not an encoder of counts, but saved like one


def register_encoder(name: str, encoder: type[CountsEncoder]) -> None:
    """Register an encoder, so that ``SToFM(encoder=name)`` uses it.

    A saved model names its encoder: register it before loading the model, too.

    Args:
        name: Value of ``SToFMConfig.encoder``, and of ``settings["kind"]`` in
            :meth:`CellFeatures.state`.
        encoder: A class with the methods of :class:`CountsEncoder`.

    Raises:
        TypeError: ``name`` is not a string, or the class lacks a method.
        ValueError: The name is empty or taken.

    Examples:
        >>> from stofm_geo import SToFM, datasets
        >>> from stofm_geo.genes import PCAFeatures, register_encoder
        >>> class Doubled(PCAFeatures):
        ...     def transform(self, adata):
        ...         return 2 * super().transform(adata)
        ...     def state(self):
        ...         settings, arrays = super().state()
        ...         return {**settings, "kind": "doubled"}, arrays
        >>> register_encoder("doubled", Doubled)
        >>> adata = datasets.toy_tissue(200, 30, seed=0)
        >>> SToFM(encoder="doubled").fit(adata, max_steps=2, progress=False).encoder
        Doubled(30)
    """
    methods = ("from_slices", "transform", "state", "from_state")
    if missing := [method for method in methods if not callable(getattr(encoder, method, None))]:
        raise TypeError(f"{encoder!r} lacks {', '.join(missing)} of stofm_geo.genes.CountsEncoder")
    if name == _OBSM:
        raise ValueError(f"the name {name!r} is taken by vectors in obsm; choose another name")
    ENCODERS.add(name, encoder)


def make_encoder(
    name: str, slices: list[AnnData], *, n_components: int, out_channels: int
) -> CellFeatures:
    """Make a registered encoder of slices; see :meth:`CountsEncoder.from_slices`.

    Raises:
        KeyError: The encoder is not registered.
        ValueError: Its state names another encoder, as which a saved model would be loaded.
    """
    sizes = {"n_components": n_components, "out_channels": out_channels}
    encoder = ENCODERS[name].from_slices(slices, **sizes)
    if (kind := encoder.state()[0].get("kind")) != name:
        raise ValueError(
            f"the encoder {name!r} has the kind {kind!r} in its state(), so that a saved model "
            f'would be loaded with another encoder; return {{"kind": {name!r}, ...}} there'
        )
    return encoder


def from_state(settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> CellFeatures:
    """Rebuild the encoder of a :meth:`CellFeatures.state`, which ``settings["kind"]`` names.

    Raises:
        ValueError: The kind is unknown, or the number of genes does not match the arrays.
        KeyError: Something is missing.
    """
    kind = settings["kind"]
    if kind != _OBSM and kind not in ENCODERS:
        known = ", ".join(map(repr, [*ENCODERS, _OBSM]))
        raise ValueError(
            f"unknown kind of features {kind!r}; known: {known}; {ENCODERS.fix}, if it is yours"
        )
    for name in ("genes", "technologies"):
        if name in settings:
            _check_names(name, settings[name])
    encoder: type[CellFeatures] = ObsmFeatures if kind == _OBSM else ENCODERS[kind]
    return encoder.from_state(settings, arrays)


def _check_names(what: str, names: Any) -> None:
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"{what} of the features must be a list of names")
    if len(set(names)) < len(names):
        raise ValueError(f"{what} of the features occur twice")


register_encoder("pca", PCAFeatures)
register_encoder("panel", PanelEncoder)
