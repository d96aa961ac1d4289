"""Training of a cell encoder on slices, from a published BERT or from scratch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import torch
from anndata import AnnData
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler

from stofm_geo._files import atomic_folder
from stofm_geo._validation import check_positive, error_context
from stofm_geo._version import __version__
from stofm_geo.genes import hugging_face
from stofm_geo.genes.rank_encoder import (
    BERT,
    PROJECTION,
    RankEncoder,
    check_matches,
    pad,
    read_projection,
)
from stofm_geo.genes.tokens import token_blocks
from stofm_geo.genes.vocabulary import FILE, MASK, PAD, Vocabulary
from stofm_geo.training.adaptation_config import AdaptationConfig

RECORD = "training.json"
FILES = (BERT, PROJECTION, FILE, RECORD)
_HELD_OUT, _MOST_HELD_OUT = 0.1, 128  # fraction and maximum number of cells


class AdaptationRecord(TypedDict):
    """How a cell encoder was trained; written as ``training.json``.

    Attributes:
        library: ``"stofm_geo"``.
        version: Version of this library.
        versions: Versions of the packages that training depends on.
        seed: Random seed.
        steps: Number of training steps.
        init: Folder of the initial weights; ``None``: a new BERT.
        settings: Fields of :class:`AdaptationConfig`.
        cells: Number of training cells.
        held_out_cells: Number of cells on which the losses are measured.
        held_out_before: Both losses before training.
        held_out_after: Both losses after training.
    """

    library: str
    version: str
    versions: dict[str, str]
    seed: int
    steps: int
    init: str | None
    settings: dict[str, Any]
    cells: int
    held_out_cells: int
    held_out_before: dict[str, float]
    held_out_after: dict[str, float]


def adapt_encoder(
    slices: Iterable[AnnData],
    vocabulary: Vocabulary,
    settings: AdaptationConfig | None = None,
    *,
    init: str | Path | None = None,
    max_steps: int = 1000,
    seed: int = 0,
    progress: bool = True,
    names: list[str] | None = None,
) -> tuple[RankEncoder, AdaptationRecord]:
    """Train a cell encoder on the counts of slices, self-supervised.

    Args:
        slices: Slices with counts in ``X`` and Ensembl ids, used one at a time; those opened with
            ``backed="r"`` are read in blocks, so that only the tokens of all cells need memory.
        vocabulary: Vocabulary of the tokens; with ``init``, that of its training.
        settings: Configuration; ``None``: the defaults.
        init: Folder of the initial weights: a Hugging Face BERT with masked-LM head (Geneformer),
            or a cell encoder (``cell_bert/``, ``cell_proj.bin``; a missing head is initialised). If
            the BERT lacks only the token ``<cls>``, it is added. ``None``: a new BERT of the sizes
            in ``settings``, with inner layers twice as wide.
        max_steps: Number of training steps, one batch each.
        seed: Random seed of weights, order, masked genes and dropout; the same seed gives the same
            weights on the same machine with the same number of threads.
        progress: Show a progress bar.
        names: Name of each slice in messages.

    Returns:
        The encoder and a record, with losses on held-out cells: a tenth of all, at most 128.

    Raises:
        ImportError: ``transformers`` is not installed.
        FileNotFoundError: ``init`` does not exist.
        KeyError, TypeError, ValueError: Invalid input; the message names it.
    """
    from stofm_geo.training.adaptation import Adaptation
    from stofm_geo.training.trainer import fit_module, seed_context

    settings = settings or AdaptationConfig()
    check_positive("max_steps", max_steps, whole=True)
    if MASK not in vocabulary.tokens:
        raise ValueError(f"the vocabulary has no {MASK!r}, the token of masked genes")
    with seed_context(seed):
        module = Adaptation(*_start(init, vocabulary, settings), settings)
        cells = _cells(slices, vocabulary, settings.max_length, names)
        order = torch.randperm(len(cells)).tolist()
        n_held_out = max(2, min(_MOST_HELD_OUT, int(_HELD_OUT * len(cells))))
        held_out, train_cells = (
            [cells[i] for i in indices] for indices in (order[:n_held_out], order[n_held_out:])
        )
        before = module.held_out_losses(held_out, seed)
        size = min(settings.batch_size, len(train_cells))
        loader: DataLoader = DataLoader(
            train_cells,  # type: ignore[arg-type]  # a list behaves like a dataset
            batch_size=size,
            sampler=RandomSampler(train_cells, num_samples=max_steps * size),
            collate_fn=lambda batch: pad(batch, vocabulary.tokens[PAD]),
        )
        # The trainer keeps the mode of the module, and dropout needs training mode.
        fit_module(module.train(), loader, max_steps=max_steps, progress=progress)
        after = module.cpu().held_out_losses(held_out, seed)
    record: AdaptationRecord = {
        "library": "stofm_geo",
        "version": __version__,
        "versions": {name: version(name) for name in ("torch", "lightning", "transformers")},
        "seed": seed,
        "steps": max_steps,
        "init": None if init is None else str(init),
        "settings": asdict(settings),
        "cells": len(train_cells),
        "held_out_cells": len(held_out),
        "held_out_before": before,
        "held_out_after": after,
    }
    return module.encoder.eval(), record


def save_adapted(encoder: RankEncoder, record: AdaptationRecord, folder: str | Path) -> None:
    """Write the encoder, its vocabulary and the record to a folder, atomically.

    Args:
        encoder: Encoder of :func:`adapt_encoder`.
        record: Record of :func:`adapt_encoder`, written as ``training.json``.
        folder: Target folder, whose parent must exist; replaced if it holds only such files.

    Raises:
        FileExistsError: The folder holds other files.
        OSError: The folder cannot be written.
    """
    with atomic_folder(folder, FILES) as temporary:
        encoder.write(temporary)
        encoder.vocabulary.to_json(temporary / FILE)
        (temporary / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def _start(
    init: str | Path | None, vocabulary: Vocabulary, settings: AdaptationConfig
) -> tuple[RankEncoder, nn.Module]:
    """Return the initial encoder and the masked-language-modelling head."""
    library = hugging_face.transformers()
    tokens = max(vocabulary.tokens.values()) + 1
    projection = None
    if init is None:
        model = library.BertForMaskedLM(
            library.BertConfig(
                vocab_size=tokens,
                hidden_size=settings.hidden_size,
                num_hidden_layers=settings.layers,
                num_attention_heads=settings.heads,
                intermediate_size=2 * settings.hidden_size,
                max_position_embeddings=settings.max_length,
                pad_token_id=vocabulary.tokens[PAD],
            )
        )
    else:
        model, projection = _read(Path(init), vocabulary)
        known, most = model.config.vocab_size, model.config.max_position_embeddings
        if known not in (tokens - 1, tokens):
            raise ValueError(
                f"{init}: has {known} tokens, and the vocabulary {tokens}; use that of the model"
            )
        if settings.max_length > most:
            raise ValueError(
                f"{init}: takes at most {most} tokens per cell; lower max_length="
                f"{settings.max_length}"
            )
        if known < tokens:
            with hugging_face.suppress_output():
                model.resize_token_embeddings(tokens)
    if projection is None:
        projection = nn.Linear(model.config.hidden_size, settings.out_channels)
    elif projection.in_features != model.config.hidden_size:
        raise ValueError(
            f"{init}: {PROJECTION} takes {projection.in_features} numbers, "
            f"the BERT gives {model.config.hidden_size}"
        )
    return RankEncoder(model.bert, projection, vocabulary), model.cls


def _read(folder: Path, vocabulary: Vocabulary) -> tuple[Any, nn.Linear | None]:
    """Read a BERT with its head, and the projection if there is one."""
    if (folder / FILE).is_file() and Vocabulary.from_json(folder / FILE) != vocabulary:
        raise ValueError(f"{folder}: has another {FILE}; use that vocabulary")
    bert = folder / BERT if (folder / BERT).is_dir() else folder
    if not (bert / "config.json").is_file():
        raise FileNotFoundError(f"{bert / 'config.json'}: no such file; a BERT's folder has one")
    model_class = hugging_face.transformers().BertForMaskedLM
    try:
        model = hugging_face.read_model(model_class, bert)
        file = folder / PROJECTION
        return model, read_projection(file) if file.is_file() else None
    except Exception as error:  # transformers, torch and pickle raise many types
        raise ValueError(f"{folder}: cannot be read as a BERT ({error})") from error


def _cells(
    slices: Iterable[AnnData], vocabulary: Vocabulary, max_length: int, names: list[str] | None
) -> list[Tensor]:
    """Return the tokens of each cell that has a gene with a token."""
    cells: list[Tensor] = []
    for i, adata in enumerate(slices):
        with error_context(names[i] if names else f"slice {i}"):
            check_matches(adata, vocabulary)
            for tokens, ptr in token_blocks(adata, vocabulary, max_length):
                parts = np.split(tokens, ptr[1:-1])
                cells += [torch.from_numpy(part) for part in parts if len(part) > 1]
    if len(cells) < 4:
        raise ValueError(f"{len(cells)} cells have genes with tokens; at least 4 are needed")
    return cells
