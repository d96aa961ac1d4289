"""The published cell encoder: a BERT over genes in the order of their rank."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from anndata import AnnData
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from stofm_geo._hash import weights_hash
from stofm_geo.genes.counts import as_counts
from stofm_geo.genes.identifiers import ensembl_ids
from stofm_geo.genes.tokens import MAX_LENGTH, rank_tokens
from stofm_geo.genes.vocabulary import PAD, Vocabulary

BERT, PROJECTION = "cell_bert", "cell_proj.bin"
_BATCH = 2**15  # tokens, padding counted


class RankEncoder(nn.Module):
    """Cell vectors of length 1 from the tokens of :func:`~stofm_geo.genes.rank_tokens`.

    Args:
        bert: A Hugging Face ``BertModel`` without pooling.
        projection: From its hidden size to the vectors'.
        vocabulary: What tokens mean.
    """

    def __init__(self, bert: nn.Module, projection: nn.Linear, vocabulary: Vocabulary) -> None:
        super().__init__()
        self.bert = bert
        self.projection = projection
        self.vocabulary = vocabulary
        self.eval()

    @classmethod
    def from_folder(cls, folder: str | Path, vocabulary: Vocabulary) -> RankEncoder:
        """Read ``cell_bert/`` (a Hugging Face folder) and ``cell_proj.bin`` (a state dict).

        Raises:
            ImportError: ``transformers`` is not installed.
            FileNotFoundError: A file is not there.
            ValueError: A file cannot be read, or they do not fit each other.
        """
        folder = Path(folder)
        for path in (folder / BERT / "config.json", folder / PROJECTION):
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file; the cell encoder needs it")
        try:
            from transformers import BertModel
            from transformers.utils import logging
        except ImportError as error:
            raise ImportError(
                "the cell encoder needs transformers; pip install 'stofm-geo[cell-encoder]'"
            ) from error
        level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
        logging.set_verbosity_error()  # it tells of the pooling layer that is left out
        logging.disable_progress_bar()
        try:
            bert = BertModel.from_pretrained(
                folder / BERT, add_pooling_layer=False, local_files_only=True
            )
            state = torch.load(folder / PROJECTION, map_location="cpu", weights_only=True)
            weight = state["weight"]
            projection = nn.Linear(weight.size(1), weight.size(0))
            projection.load_state_dict(state)
        except Exception as error:  # of transformers, torch and pickle: a dozen kinds
            raise ValueError(f"{folder}: cannot be read as a cell encoder ({error})") from error
        finally:
            logging.set_verbosity(level)
            if bar:
                logging.enable_progress_bar()
        if weight.size(1) != bert.config.hidden_size:
            raise ValueError(
                f"{folder / PROJECTION}: takes {weight.size(1)} numbers, "
                f"the BERT gives {bert.config.hidden_size}"
            )
        most = max(vocabulary.tokens.values())
        if most >= bert.config.vocab_size:
            raise ValueError(
                f"{folder / BERT}: knows {bert.config.vocab_size} tokens, "
                f"the vocabulary has {most + 1}; it is another model's"
            )
        return cls(bert, projection, vocabulary)

    @property
    def out_channels(self) -> int:
        """Length of a cell's vector."""
        return self.projection.out_features

    def save(self, folder: str | Path) -> None:
        """Write what :meth:`from_folder` reads, the vocabulary left out."""
        folder = Path(folder)
        self.bert.save_pretrained(folder / BERT)
        torch.save(self.projection.state_dict(), folder / PROJECTION)

    def weights_hash(self) -> str:
        """First 12 digits of the SHA-256 over all weights."""
        return weights_hash(self.state_dict())[:12]

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """``[B, T]`` tokens, ``mask`` 1 where they are no padding, to ``[B, out_channels]``."""
        hidden = self.bert(tokens, attention_mask=mask).last_hidden_state
        return F.normalize(self.projection(hidden[:, 0]), dim=-1)

    def transform(self, adata: AnnData) -> np.ndarray:
        """Vectors ``[n, out_channels]`` float32 of the counts in ``X``.

        Raises:
            KeyError, TypeError, ValueError: Counts or gene names that do not fit.
        """
        tokens, ptr = rank_tokens(
            as_counts(adata, copy=False),
            ensembl_ids(adata),
            self.vocabulary,
            min(MAX_LENGTH, self.bert.config.max_position_embeddings),
        )
        cells = [torch.from_numpy(part) for part in np.split(tokens, ptr[1:-1])]
        vectors = np.empty((len(cells), self.out_channels), dtype=np.float32)
        device = self.projection.weight.device
        for rows in _batches(np.diff(ptr)):
            padded = pad_sequence(
                [cells[row] for row in rows], True, self.vocabulary.tokens[PAD]
            ).to(device)
            length = torch.from_numpy(np.diff(ptr)[rows]).to(device)
            mask = torch.arange(padded.size(1), device=device) < length[:, None]
            with torch.inference_mode():
                vectors[rows] = self(padded, mask.long()).cpu().numpy()
        return vectors


def _batches(lengths: np.ndarray) -> list[np.ndarray]:
    """Rows of cells of like length, as many as a batch of tokens holds, the longest first."""
    order = np.argsort(-lengths, kind="stable")
    found, start = [], 0
    while start < len(order):
        size = max(_BATCH // int(lengths[order[start]]), 1)
        found.append(order[start : start + size])
        start += size
    return found
