"""The published cell encoder: a BERT over genes in the order of their rank."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from anndata import AnnData
from rich.progress import Progress
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from stofm_geo._files import atomic_folder
from stofm_geo._hash import weights_hash
from stofm_geo._replace import recover_folder
from stofm_geo._validation import preview
from stofm_geo._weights import check_shapes, read_torch
from stofm_geo.genes import hugging_face
from stofm_geo.genes.counts import count_blocks
from stofm_geo.genes.identifiers import ensembl_ids
from stofm_geo.genes.tokens import MAX_LENGTH, token_blocks
from stofm_geo.genes.vocabulary import CLS, PAD, Vocabulary

BERT, PROJECTION = "cell_bert", "cell_proj.bin"
_BATCH = 2**15  # tokens, including padding
_FEW_KNOWN, _MIN_KNOWN = 0.6, 0.2  # fractions of counts: below, a warning and an error


class RankEncoder(nn.Module):
    """Cell vectors of length 1 from the tokens of :func:`~stofm_geo.genes.rank_tokens`.

    This is the cell encoder of the published SToFM (arXiv 2507.11588).

    Args:
        bert: A Hugging Face ``BertModel`` without pooling.
        projection: Linear layer from the hidden size to that of the vectors.
        vocabulary: Tokens and medians of genes.

    Examples:
        >>> import torch
        >>> from transformers import BertConfig, BertModel
        >>> from stofm_geo.genes import RankEncoder, Vocabulary
        >>> gene = "ENSG00000131095"
        >>> vocabulary = Vocabulary({"<pad>": 0, gene: 1, "<cls>": 2}, {gene: 1.0})
        >>> sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
        >>> bert = BertModel(BertConfig(vocab_size=3, **sizes), add_pooling_layer=False)
        >>> encoder = RankEncoder(bert, torch.nn.Linear(8, 4), vocabulary)
        >>> encoder(torch.tensor([[2, 1]]), torch.ones(1, 2)).shape
        torch.Size([1, 4])
    """

    bert: Any  # a transformers.BertModel, whose package is an extra

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
            FileNotFoundError: A file does not exist.
            ValueError: A file cannot be read, or the files do not match.
        """
        folder = Path(folder)
        recover_folder(folder)
        for path in (folder / BERT / "config.json", folder / PROJECTION):
            if not path.is_file():
                raise FileNotFoundError(f"{path}: no such file; the cell encoder needs it")
        bert_model = hugging_face.transformers().BertModel
        try:
            bert = hugging_face.read_model(bert_model, folder / BERT, add_pooling_layer=False)
            projection = read_projection(folder / PROJECTION)
        except Exception as error:  # transformers, torch and pickle raise many types
            raise ValueError(f"{folder}: cannot be read as a cell encoder ({error})") from error
        if projection.in_features != bert.config.hidden_size:
            raise ValueError(
                f"{folder / PROJECTION}: has {projection.in_features} inputs, "
                f"and the BERT {bert.config.hidden_size} outputs; use files of one model"
            )
        largest = max(vocabulary.tokens.values())
        if largest >= bert.config.vocab_size:
            raise ValueError(
                f"{folder / BERT}: has {bert.config.vocab_size} tokens, and the "
                f"vocabulary {largest + 1}; use that of the model"
            )
        return cls(bert, projection, vocabulary)

    @property
    def out_channels(self) -> int:
        """Return the size of a cell's vector."""
        return self.projection.out_features

    def save(self, folder: str | Path) -> None:
        """Write the files that :meth:`from_folder` reads, atomically; without the vocabulary.

        Args:
            folder: Created if it does not exist; replaced if it holds a cell encoder only.

        Raises:
            FileExistsError: The folder holds other files.
            OSError: The folder cannot be written.
        """
        with atomic_folder(folder, (BERT, PROJECTION)) as temporary:
            self.write(temporary)

    def write(self, folder: Path) -> None:
        """Write the files of :meth:`save` into an existing folder."""
        with hugging_face.suppress_output():
            self.bert.save_pretrained(folder / BERT)
        torch.save(self.projection.state_dict(), folder / PROJECTION)

    def weights_hash(self) -> str:
        """Return the first 12 digits of the SHA-256 over all weights."""
        return weights_hash(self.state_dict())[:12]

    @property
    def vectors_key(self) -> str:
        """Return the key in ``obsm`` of vectors by these weights: ``X_cell_<hash>``."""
        return f"X_cell_{self.weights_hash()}"

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Compute vectors ``[B, out_channels]`` of tokens ``[B, T]``; ``mask`` is 0 for padding."""
        hidden = self.bert(tokens, attention_mask=mask).last_hidden_state
        return self.project(hidden[:, 0])

    def project(self, hidden: Tensor) -> Tensor:
        """Project states ``[B, hidden_size]`` of ``<cls>`` to vectors ``[B, out_channels]``."""
        return F.normalize(self.projection(hidden).float(), dim=-1)

    def annotate(
        self, adata: AnnData, key_added: str | None = None, *, progress: bool = False
    ) -> None:
        """Write the vectors of :meth:`transform` to ``adata.obsm``, in place.

        The default key contains the weights hash, so vectors of the right shape under it are kept;
        those under another key are always recomputed.

        Args:
            adata: Counts in ``X`` and Ensembl ids.
            key_added: Key in ``obsm``; ``None``: :attr:`vectors_key`.
            progress: Show a progress bar.

        Raises:
            KeyError, TypeError, ValueError: Invalid counts or gene names.
        """
        key = key_added or self.vectors_key
        shape = adata.n_obs, self.out_channels
        if key_added is None and getattr(adata.obsm.get(key), "shape", None) == shape:
            return
        adata.obsm[key] = self.transform(adata, progress=progress)

    def transform(self, adata: AnnData, *, progress: bool = False) -> np.ndarray:
        """Compute the vectors ``[n, out_channels]`` float32 of the counts in ``X``.

        Cells are read in blocks of rows, so that a file opened with ``backed="r"`` is never in
        memory as a whole. A cell without counts of genes with tokens gets the vector of ``<cls>``.
        The BERT runs in bfloat16 on GPUs that support it, else in float32.

        Args:
            adata: Counts in ``X`` and Ensembl ids.
            progress: Show a progress bar.

        Raises:
            KeyError, TypeError: Invalid counts or gene names.
            ValueError: Invalid counts, or less than 20 % of the counts are of genes with tokens.

        Warns:
            UserWarning: Less than 60 % of the counts are of genes with tokens.
        """
        check_matches(adata, self.vocabulary)
        device = self.projection.weight.device
        bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        max_length = min(MAX_LENGTH, self.bert.config.max_position_embeddings)
        vectors = np.empty((adata.n_obs, self.out_channels), dtype=np.float32)
        start, empty = 0, 0
        with Progress(disable=not progress) as bar:
            task = bar.add_task("Cells", total=len(vectors))
            for tokens, ptr in token_blocks(adata, self.vocabulary, max_length):
                length = np.diff(ptr)
                empty += int((length == 1).sum())
                cells = [torch.from_numpy(part) for part in np.split(tokens, ptr[1:-1])]
                for rows in _batches(length):
                    padded, mask = pad([cells[row] for row in rows], self.vocabulary.tokens[PAD])
                    with (
                        torch.inference_mode(),
                        torch.autocast(device.type, torch.bfloat16, enabled=bf16),
                    ):
                        batch_vectors = self(padded.to(device), mask.to(device))
                    vectors[start + rows] = batch_vectors.cpu().numpy()
                    bar.advance(task, len(rows))
                start += len(cells)
        if empty:
            warnings.warn(
                f"{empty} of {len(vectors)} cells have no counts of genes with tokens and get "
                f"the vector of {CLS}",
                stacklevel=2,
            )
        return vectors


def check_matches(adata: AnnData, vocabulary: Vocabulary) -> None:
    """Check that enough of the counts are of genes that have tokens; one pass over ``X``.

    Raises:
        KeyError, TypeError, ValueError: Invalid counts or gene names, or less than 20 % of the
            counts are of genes with tokens.

    Warns:
        UserWarning: Less than 60 % of the counts are of genes with tokens.
    """
    genes = ensembl_ids(adata)
    total = np.zeros(len(genes))
    for counts in count_blocks(adata):
        total += np.asarray(counts.sum(axis=0, dtype=np.float64)).ravel()
    known = vocabulary.lookup(genes)[0] >= 0
    share = total[known].sum() / total.sum()
    if share >= _FEW_KNOWN:
        return
    message = (
        f"{int(known.sum())} of {len(genes)} genes have tokens, with {100 * share:.0f} % of the "
        f"counts (without a token: {preview(genes[~known])})"
    )
    if share < _MIN_KNOWN:
        raise ValueError(
            f"{message}; Ensembl ids of the vocabulary's species are needed, or a table of "
            "orthologs, or another vocabulary"
        )
    warnings.warn(f"{message}; the others do not enter the vectors", stacklevel=3)


def read_projection(file: Path) -> nn.Linear:
    """Read a linear layer from a state dict; only tensors are unpickled.

    Raises:
        ValueError: The file does not hold a linear layer.
    """
    state = read_torch(file)
    weight = state.get("weight")
    if weight is None or weight.dim() != 2 or not weight.numel():
        raise ValueError(f"{file}: is not a linear layer")
    with torch.device("meta"):
        check_shapes(nn.Linear(weight.size(1), weight.size(0)).state_dict(), state)
    projection = nn.Linear(weight.size(1), weight.size(0))
    projection.load_state_dict(state)
    return projection


def pad(cells: Sequence[Tensor], padding: int) -> tuple[Tensor, Tensor]:
    """Return tokens of cells as one ``[B, T]``, and a mask that is 0 for padding."""
    padded = pad_sequence(list(cells), True, padding)
    length = torch.tensor([len(cell) for cell in cells])
    return padded, (torch.arange(padded.size(1)) < length[:, None]).long()


def _batches(lengths: np.ndarray) -> list[np.ndarray]:
    """Return rows of cells of similar length, as many as a batch of tokens holds, longest first."""
    order = np.argsort(-lengths, kind="stable")
    batches, start = [], 0
    while start < len(order):
        size = max(_BATCH // int(lengths[order[start]]), 1)
        batches.append(order[start : start + size])
        start += size
    return batches
