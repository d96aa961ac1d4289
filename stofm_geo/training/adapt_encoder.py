"""Adapting a cell encoder to slices of one's own, from a published BERT or from nothing."""

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
_HELD_OUT, _MOST_HELD_OUT = 0.1, 128  # of the cells; to measure the losses by


class AdaptationRecord(TypedDict):
    """How a cell encoder was trained; written as ``training.json``.

    Attributes:
        library: ``"stofm_geo"``.
        version: Of this library.
        versions: Of the packages that training depends on.
        seed: Random seed.
        steps: Training steps.
        init: Folder the weights come from; ``None``: a new BERT.
        settings: Fields of :class:`AdaptationConfig`.
        cells: Training cells.
        held_out_cells: Cells the losses are measured on.
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
        slices: Counts in ``X`` and Ensembl ids; taken one after another, and those opened with
            ``backed="r"`` block by block, so that only the tokens of all cells need memory.
        vocabulary: What the tokens mean; with ``init``, the one it was trained with.
        settings: Sizes and rates; ``None``: the defaults.
        init: Where to start from: a Hugging Face folder of a BERT with its masked-LM head
            (Geneformer), or a cell encoder's folder (``cell_bert/``, ``cell_proj.bin``; a head
            that is not there is made anew). If the BERT lacks one token, ``<cls>``, it is added.
            ``None``: a new BERT of the sizes in ``settings``, the inner layers twice as wide.
        max_steps: Training steps, one batch each.
        seed: Of weights, order, hidden genes and dropout; the same seed gives the same weights
            on the same machine with as many threads.
        progress: Show a progress bar.
        names: What messages call each slice.

    Returns:
        The encoder, and a record; its losses are of a tenth of the cells (128 at most) that is
        not trained on.

    Raises:
        ImportError: ``transformers`` is not installed.
        FileNotFoundError: ``init`` is not there.
        KeyError, TypeError, ValueError: Input that does not fit; the message says what.
    """
    from stofm_geo.training.adaptation import Adaptation
    from stofm_geo.training.trainer import fit_module, seed_context

    settings = settings or AdaptationConfig()
    check_positive("max_steps", max_steps, whole=True)
    if MASK not in vocabulary.tokens:
        raise ValueError(f"the vocabulary has no {MASK!r}, which hidden genes are shown as")
    with seed_context(seed):
        module = Adaptation(*_start(init, vocabulary, settings), settings)
        cells = _cells(slices, vocabulary, settings.max_length, names)
        order = torch.randperm(len(cells)).tolist()
        held = max(2, min(_MOST_HELD_OUT, int(_HELD_OUT * len(cells))))
        held_out, trained = ([cells[i] for i in part] for part in (order[:held], order[held:]))
        before = module.held_out_losses(held_out, seed)
        size = min(settings.batch_size, len(trained))
        loader: DataLoader = DataLoader(
            trained,  # type: ignore[arg-type]  # a list is as good
            batch_size=size,
            sampler=RandomSampler(trained, num_samples=max_steps * size),
            collate_fn=lambda batch: pad(batch, vocabulary.tokens[PAD]),
        )
        # The trainer keeps modes as they are, and in that of evaluation nothing is dropped.
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
        "cells": len(trained),
        "held_out_cells": len(held_out),
        "held_out_before": before,
        "held_out_after": after,
    }
    return module.encoder.eval(), record


def save_adapted(encoder: RankEncoder, record: AdaptationRecord, folder: str | Path) -> None:
    """Write what ``RankEncoder.from_folder`` reads, its vocabulary and the record; all or nothing.

    Args:
        encoder: Of :func:`adapt_encoder`.
        record: Likewise; written as ``training.json``.
        folder: Its parent must be there; replaced if it holds such files alone.

    Raises:
        FileExistsError: It holds something else.
        OSError: It cannot be written.
    """
    with atomic_folder(folder, FILES) as temporary:
        encoder.write(temporary)
        encoder.vocabulary.to_json(temporary / FILE)
        (temporary / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def _start(
    init: str | Path | None, vocabulary: Vocabulary, settings: AdaptationConfig
) -> tuple[RankEncoder, nn.Module]:
    """Make the encoder and the head of masked-language modelling."""
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
                f"{init}: knows {known} tokens, the vocabulary has {tokens}; it is another model's"
            )
        if settings.max_length > most:
            raise ValueError(
                f"{init}: reads {most} tokens of a cell; max_length={settings.max_length} is more"
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
    """Read a BERT with its head, and a projection where there is one."""
    if (folder / FILE).is_file() and Vocabulary.from_json(folder / FILE) != vocabulary:
        raise ValueError(f"{folder}: has a {FILE} of its own, which is another one; name that")
    bert = folder / BERT if (folder / BERT).is_dir() else folder
    if not (bert / "config.json").is_file():
        raise FileNotFoundError(f"{bert / 'config.json'}: no such file; a BERT's folder has one")
    model_class = hugging_face.transformers().BertForMaskedLM
    try:
        model = hugging_face.read_model(model_class, bert)
        file = folder / PROJECTION
        return model, read_projection(file) if file.is_file() else None
    except Exception as error:  # of transformers, torch and pickle: a dozen kinds
        raise ValueError(f"{folder}: cannot be read as a BERT ({error})") from error


def _cells(
    slices: Iterable[AnnData], vocabulary: Vocabulary, most: int, names: list[str] | None
) -> list[Tensor]:
    """Return the tokens of each cell that has a gene with a token."""
    cells: list[Tensor] = []
    for i, adata in enumerate(slices):
        with error_context(names[i] if names else f"slice {i}"):
            check_matches(adata, vocabulary)
            for tokens, ptr in token_blocks(adata, vocabulary, most):
                parts = np.split(tokens, ptr[1:-1])
                cells += [torch.from_numpy(part) for part in parts if len(part) > 1]
    if len(cells) < 4:
        raise ValueError(f"{len(cells)} cells have genes with tokens; at least 4 are needed")
    return cells
