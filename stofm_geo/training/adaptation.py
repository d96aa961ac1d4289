"""The objectives a cell encoder is adapted by: guess hidden genes, and know a cell again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stofm_geo.genes.rank_encoder import RankEncoder, pad
from stofm_geo.genes.vocabulary import CLS, MASK, PAD, Vocabulary
from stofm_geo.training.adaptation_config import AdaptationConfig
from stofm_geo.training.trainer import adamw_one_cycle

_HIDDEN, _OTHER = 0.8, 0.1  # of the genes to guess: shown as <mask>, and as any gene (BERT's)


class Adaptation(L.LightningModule):
    """Both objectives as one training step.

    Hidden genes: the cross-entropy of the tokens that are to be guessed (Devlin et al. 2019).
    Cells: two passes through dropout give two vectors of each cell, and each is to be nearer to
    its twin than to those of the batch's other cells, by the cross-entropy of cosines over
    ``temperature`` (SimCSE, arXiv 2104.08821).

    Args:
        encoder: Trained in place.
        head: From hidden states to logits over the tokens.
        settings: Weights and rates.
    """

    genes: Tensor

    def __init__(self, encoder: RankEncoder, head: nn.Module, settings: AdaptationConfig) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.settings = settings
        token, _ = encoder.vocabulary.lookup(np.array([*encoder.vocabulary.medians]))
        self.register_buffer("genes", torch.from_numpy(np.unique(token[token >= 0])), False)
        freeze(encoder, settings.freeze_layers)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """See ``LightningModule``."""
        gene_loss, cell_loss = self.losses(*batch)
        self.log_dict(
            {"gene_loss": gene_loss, "cell_loss": cell_loss},
            prog_bar=True,
            batch_size=len(batch[0]),
        )
        return gene_loss + self.settings.contrast_weight * cell_loss

    def losses(self, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Of hidden genes and of cells, in nats.

        Args:
            tokens: ``[B, T]``.
            mask: 1 where they are no padding.
        """
        shown, asked = hide(tokens, self.encoder.vocabulary, self.genes, self.settings.mask_ratio)
        hidden = self.encoder.bert(
            torch.cat([shown, tokens, tokens]), attention_mask=mask.repeat(3, 1)
        ).last_hidden_state
        logits = self.head(hidden[: len(tokens)][asked])
        found = F.cross_entropy(logits, tokens[asked].long(), reduction="sum")
        first, second = self.encoder.project(hidden[len(tokens) :, 0]).chunk(2)
        cosines = first @ second.T / self.settings.temperature
        twin = torch.arange(len(tokens), device=tokens.device)
        return found / asked.sum().clamp(min=1), F.cross_entropy(cosines, twin)

    @torch.no_grad()
    def held_out_losses(self, cells: Sequence[Tensor], seed: int) -> dict[str, float]:
        """Both losses of cells that are not trained on, dropout as in training.

        The same seed hides the same genes and drops the same parts, so that what is measured
        before and after differs by the weights alone.
        """
        was, device = self.training, self.genes.device
        self.train()
        batches = [
            cells[start : start + self.settings.batch_size]
            for start in range(0, len(cells), self.settings.batch_size)
        ]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            padding = self.encoder.vocabulary.tokens[PAD]
            # A last cell alone has no other to be told from.
            pairs = [
                self.losses(*(part.to(device) for part in pad(batch, padding)))
                for batch in batches
                if len(batch) > 1
            ]
        self.train(was)
        gene_loss, cell_loss = torch.tensor(pairs).mean(dim=0).tolist()
        return {"gene_loss": gene_loss, "cell_loss": cell_loss}

    def configure_optimizers(self) -> Any:
        """See ``LightningModule``."""
        return adamw_one_cycle(self, self.settings.learning_rate, self.settings.weight_decay)


def hide(
    tokens: Tensor, vocabulary: Vocabulary, genes: Tensor, share: float
) -> tuple[Tensor, Tensor]:
    """Tokens with some genes hidden, and which (Devlin et al. 2019).

    Of the genes to be guessed 80 % are shown as ``<mask>``, 10 % as any gene and 10 % as
    they are.

    Args:
        tokens: ``[B, T]``.
        vocabulary: Its ``<pad>`` and ``<cls>`` are never hidden.
        genes: Tokens to draw from.
        share: Of the genes, to be guessed.

    Returns:
        Tokens as shown, and true where they are to be guessed.
    """
    special = (tokens == vocabulary.tokens[PAD]) | (tokens == vocabulary.tokens[CLS])
    asked = (torch.rand(tokens.shape, device=tokens.device) < share) & ~special
    how = torch.rand(tokens.shape, device=tokens.device)
    drawn = torch.randint(len(genes), tokens.shape, device=tokens.device)
    other = genes[drawn].to(tokens.dtype)
    shown = torch.where(asked & (how < _HIDDEN), vocabulary.tokens[MASK], tokens)
    return torch.where(asked & (how >= 1 - _OTHER), other, shown), asked


def freeze(encoder: RankEncoder, layers: int) -> None:
    """Keep the embeddings and that many layers as they are; nothing for 0.

    Raises:
        ValueError: There are fewer.
    """
    there = encoder.bert.encoder.layer
    if layers > len(there):
        raise ValueError(f"freeze_layers={layers}, but the BERT has {len(there)} layers")
    if layers:
        for part in (encoder.bert.embeddings, *there[:layers]):
            part.requires_grad_(False)
