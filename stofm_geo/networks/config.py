"""Configuration of a model and its training."""

from __future__ import annotations

from dataclasses import dataclass

from stofm_geo._validation import check_fraction, check_positive
from stofm_geo.genes.encoders import ENCODERS

OBJECTIVES = ("molecules", "niches", "official")


@dataclass(frozen=True)
class SToFMConfig:
    """Configuration of :class:`~stofm_geo.SToFM`.

    Attributes:
        encoder: Name of the encoder from counts to features: ``"pca"``, principal components of
            the genes that all slices share; ``"panel"``, gene embeddings that are trained with the
            network and allow slices of different panels (:class:`~stofm_geo.genes.PanelEncoder`);
            or one registered by :func:`~stofm_geo.genes.register_encoder`.
        organism: ``"human"``, ``"mouse"`` or ``"auto"`` converts genes to human Ensembl ids first
            (:func:`~stofm_geo.genes.harmonize`), so that slices with other names and of both
            species share genes. ``None`` keeps the gene names.
        n_components: Number of principal components; with ``"panel"``, of each slice.
        hidden_channels: Width of the SE(2) Transformer; a multiple of ``heads``.
        out_channels: Size of an embedding.
        num_layers: Number of layers of the SE(2) Transformer.
        heads: Number of attention heads.
        num_gaussians: Number of Gaussians of the radial bias.
        dropout: Dropout probability of the outputs of each block.
        k: Number of nearest neighbours of a cell.
        max_macro_nodes: Maximum number of macro nodes of a slice.
        cells_per_subslice: Maximum number of core cells of a sub-slice.
        objectives: Pre-training objective (:mod:`stofm_geo.training.objectives`): ``"molecules"``,
            molecules held out from each cell; ``"niches"``, averages of the neighbours of masked
            cells; or ``"official"``, as published, for which
            ``examples/configs/pretrain_official.yaml`` has the published ratios. ``None``
            (default): ``"molecules"`` where features are the principal components of whole
            counts (``encoder="pca"``), else ``"niches"``.
        mask_ratio: Fraction of the cells that are masked in training.
        target_ratio: Fraction of the molecules of a cell that are predicted from the others, with
            ``objectives="molecules"``.
        noise_ratio: Fraction of the cells that are moved in training.
        noise_std: Standard deviation of the moves, in cell spacings.
        distance_weight: Weight of the distance loss; that of the niche loss is 1.
        learning_rate: Peak of the one-cycle schedule of AdamW.
        weight_decay: Weight decay of AdamW.

    Raises:
        TypeError: A setting is unknown or has the wrong type.
        ValueError: A setting is out of range.

    Examples:
        >>> from stofm_geo import SToFMConfig
        >>> config = SToFMConfig(hidden_channels=64, heads=4)
        >>> config.encoder, config.out_channels
        ('pca', 256)
        >>> SToFMConfig(hidden_channels=100)
        Traceback (most recent call last):
        ValueError: hidden_channels=100 must be a multiple of heads=8
    """

    encoder: str = "pca"
    organism: str | None = None
    n_components: int = 30
    hidden_channels: int = 128
    out_channels: int = 256
    num_layers: int = 3
    heads: int = 8
    num_gaussians: int = 32
    dropout: float = 0.1
    k: int = 12
    max_macro_nodes: int = 16
    cells_per_subslice: int = 1000
    objectives: str | None = None
    mask_ratio: float = 0.3
    target_ratio: float = 0.25
    noise_ratio: float = 0.12
    noise_std: float = 1.0
    distance_weight: float = 0.3
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        known = ", ".join(map(repr, ENCODERS))
        if not isinstance(self.encoder, str):
            raise TypeError(
                f"encoder must be a name, one of {known}; found {self.encoder!r}; register a class "
                "by stofm_geo.genes.register_encoder, and give its name"
            )
        if self.encoder not in ENCODERS:
            raise ValueError(
                f"encoder must be one of {known}; found {self.encoder!r}; {ENCODERS.fix}, if it is "
                "yours"
            )
        if self.organism not in (None, "auto", "human", "mouse"):
            raise ValueError(
                f"organism must be 'auto', 'human', 'mouse' or None; found {self.organism!r}"
            )
        if self.objectives is not None and self.objectives not in OBJECTIVES:
            known = ", ".join(map(repr, OBJECTIVES))
            raise ValueError(
                f"objectives must be one of {known} or None; found {self.objectives!r}"
            )
        for name in (
            "n_components",
            "hidden_channels",
            "out_channels",
            "num_layers",
            "heads",
            "num_gaussians",
            "k",
            "max_macro_nodes",
            "cells_per_subslice",
        ):
            check_positive(name, getattr(self, name), whole=True)
        for name in ("noise_std", "learning_rate"):
            check_positive(name, getattr(self, name))
        for name in ("distance_weight", "weight_decay"):
            check_positive(name, getattr(self, name), or_zero=True)
        for name in ("dropout", "mask_ratio", "noise_ratio", "target_ratio"):
            check_fraction(name, getattr(self, name))
        check_positive("target_ratio", self.target_ratio)
        if self.hidden_channels % self.heads:
            raise ValueError(
                f"hidden_channels={self.hidden_channels} must be a multiple of heads={self.heads}"
            )

    @property
    def feature_channels(self) -> int:
        """Return the size of the vectors of a panel encoder, so that they fit into an embedding.

        A niche is three of them: own, near, far. With molecules held out, the denoised vector and
        the context follow.

        Examples:
            >>> from stofm_geo import SToFMConfig
            >>> SToFMConfig(encoder="panel", out_channels=256).feature_channels
            85
        """
        return self.out_channels // (5 if self.objectives == "molecules" else 3)

    @property
    def subslice_options(self) -> dict[str, int]:
        """Return the options of :class:`~stofm_geo.data.SubSliceDataset`.

        Examples:
            >>> from stofm_geo import SToFMConfig
            >>> SToFMConfig(k=6).subslice_options["k"]
            6
        """
        return {
            "k": self.k,
            "max_macro_nodes": self.max_macro_nodes,
            "cells_per_subslice": self.cells_per_subslice,
            "n_components": self.n_components,
        }
