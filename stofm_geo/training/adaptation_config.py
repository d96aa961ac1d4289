"""Configuration of the adaptation of a cell encoder."""

from __future__ import annotations

from dataclasses import dataclass

from stofm_geo._validation import check_fraction, check_positive


@dataclass(frozen=True)
class AdaptationConfig:
    """Settings of :func:`~stofm_geo.training.adapt_encoder.adapt_encoder`.

    Attributes:
        max_length: Maximum number of tokens of a cell in training, including ``<cls>``.
        hidden_size: Width of a new BERT, a multiple of ``heads``.
        layers: Number of layers of a new BERT.
        heads: Number of attention heads of a new BERT.
        out_channels: Size of the cell vectors of a new projection; the published model takes 256.
        freeze_layers: Number of first layers that are frozen, together with the embeddings; 0:
            all are trained.
        mask_ratio: Fraction of genes to predict.
        temperature: Temperature of the contrastive loss.
        contrast_weight: Weight of the contrastive loss; that of the masked-gene loss is 1.
        batch_size: Number of cells per step.
        learning_rate: Peak of the one-cycle schedule of AdamW.
        weight_decay: Weight decay of AdamW.

    Raises:
        TypeError: A setting has the wrong type.
        ValueError: A setting is out of range.
    """

    max_length: int = 512
    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    out_channels: int = 256
    freeze_layers: int = 0
    mask_ratio: float = 0.15
    temperature: float = 0.05
    contrast_weight: float = 0.1
    batch_size: int = 16
    learning_rate: float = 3e-4
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        for name in ("max_length", "hidden_size", "layers", "heads", "out_channels", "batch_size"):
            check_positive(name, getattr(self, name), whole=True)
        check_positive("freeze_layers", self.freeze_layers, whole=True, or_zero=True)
        for name in ("temperature", "learning_rate"):
            check_positive(name, getattr(self, name))
        for name in ("contrast_weight", "weight_decay"):
            check_positive(name, getattr(self, name), or_zero=True)
        check_fraction("mask_ratio", self.mask_ratio)
        if self.hidden_size % self.heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} must be a multiple of heads={self.heads}"
            )
        for name in ("max_length", "batch_size"):  # a gene besides <cls>; a cell to contrast with
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be 2 or more; found {getattr(self, name)}")
