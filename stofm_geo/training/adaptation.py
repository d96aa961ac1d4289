"""Objectives of the adaptation of a cell encoder: masked genes and a contrastive loss of cells."""

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

_MASKED, _REPLACED = 0.8, 0.1  # fractions of the target genes, as in BERT


class Adaptation(L.LightningModule):
    """Module that trains a cell encoder with two losses.

    The gene loss is the cross-entropy of masked tokens (Devlin et al. 2019). The cell loss is
    contrastive: two passes with dropout give two vectors of each cell, and each is to be more
    similar to the other one than to those of other cells in the batch, by the cross-entropy of
    cosines over ``temperature`` (SimCSE, arXiv 2104.08821).

    Args:
        encoder: Encoder, trained in place.
        head: Module from hidden states to logits over the tokens.
        settings: Configuration.
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
        """Return the gene loss and the cell loss, in nats.

        Args:
            tokens: Tokens ``[B, T]``.
            mask: Attention mask ``[B, T]``, 0 for padding.
        """
        masked, target = mask_tokens(
            tokens, self.encoder.vocabulary, self.genes, self.settings.mask_ratio
        )
        hidden = self.encoder.bert(
            torch.cat([masked, tokens, tokens]), attention_mask=mask.repeat(3, 1)
        ).last_hidden_state
        logits = self.head(hidden[: len(tokens)][target])
        gene_loss = F.cross_entropy(logits, tokens[target].long(), reduction="sum")
        first, second = self.encoder.project(hidden[len(tokens) :, 0]).chunk(2)
        cosines = first @ second.T / self.settings.temperature
        twin = torch.arange(len(tokens), device=tokens.device)
        return gene_loss / target.sum().clamp(min=1), F.cross_entropy(cosines, twin)

    @torch.no_grad()
    def held_out_losses(self, cells: Sequence[Tensor], seed: int) -> dict[str, float]:
        """Return both losses on held-out cells, with dropout as in training.

        The same seed gives the same masks and dropout, so that losses before and after training
        differ only by the weights.
        """
        was_training, device = self.training, self.genes.device
        self.train()
        batches = [
            cells[start : start + self.settings.batch_size]
            for start in range(0, len(cells), self.settings.batch_size)
        ]
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            padding = self.encoder.vocabulary.tokens[PAD]
            # A single last cell has no other to contrast with.
            pairs = [
                self.losses(*(part.to(device) for part in pad(batch, padding)))
                for batch in batches
                if len(batch) > 1
            ]
        self.train(was_training)
        gene_loss, cell_loss = torch.tensor(pairs).mean(dim=0).tolist()
        return {"gene_loss": gene_loss, "cell_loss": cell_loss}

    def configure_optimizers(self) -> Any:
        """See ``LightningModule``."""
        return adamw_one_cycle(self, self.settings.learning_rate, self.settings.weight_decay)


def mask_tokens(
    tokens: Tensor, vocabulary: Vocabulary, genes: Tensor, ratio: float
) -> tuple[Tensor, Tensor]:
    """Return tokens with random genes masked, and the mask of the target genes.

    As in BERT (Devlin et al. 2019), of the target genes 80 % are replaced by ``<mask>``, 10 % by a
    random gene, and 10 % stay unchanged.

    Args:
        tokens: Tokens ``[B, T]``.
        vocabulary: Vocabulary, whose ``<pad>`` and ``<cls>`` are never targets.
        genes: Tokens of the random genes.
        ratio: Fraction of genes that are targets.

    Returns:
        Masked tokens ``[B, T]``, and the target mask ``[B, T]`` bool.
    """
    special = (tokens == vocabulary.tokens[PAD]) | (tokens == vocabulary.tokens[CLS])
    target = (torch.rand(tokens.shape, device=tokens.device) < ratio) & ~special
    choice = torch.rand(tokens.shape, device=tokens.device)
    drawn = torch.randint(len(genes), tokens.shape, device=tokens.device)
    other = genes[drawn].to(tokens.dtype)
    masked = torch.where(target & (choice < _MASKED), vocabulary.tokens[MASK], tokens)
    return torch.where(target & (choice >= 1 - _REPLACED), other, masked), target


def freeze(encoder: RankEncoder, layers: int) -> None:
    """Freeze the embeddings and the first ``layers`` layers; nothing for 0.

    Raises:
        ValueError: The BERT has fewer layers.
    """
    all_layers = encoder.bert.encoder.layer
    if layers > len(all_layers):
        raise ValueError(f"freeze_layers={layers}, but the BERT has {len(all_layers)} layers")
    if layers:
        for module in (encoder.bert.embeddings, *all_layers[:layers]):
            module.requires_grad_(False)
