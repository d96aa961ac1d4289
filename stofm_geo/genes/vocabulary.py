"""Which genes have tokens, and what counts as an ordinary amount of each."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TOKENS, MEDIANS, ORTHOLOGS = (
    "token_dictionary.pkl",
    "gene_median_dictionary.pkl",
    "mouseid2humanid.pkl",
)
PAD, CLS = "<pad>", "<cls>"


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and medians of genes by Ensembl id, as rank-value encoding needs them.

    Attributes:
        tokens: Token of each gene and of the special ``<pad>``, ``<mask>`` and ``<cls>``.
        medians: Of each gene, the median of its counts where it is found, per 10 000 of a cell.
        orthologs: Human id of a mouse id; mouse genes that are not in it have no token.
    """

    tokens: dict[str, int]
    medians: dict[str, float]
    orthologs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_pickles(cls, folder: str | Path) -> Vocabulary:
        """Read the published dictionaries of Geneformer, which are pickles.

        Nothing but dictionaries, strings and numbers is unpickled; anything else is refused before
        it runs.

        Args:
            folder: With ``token_dictionary.pkl`` and ``gene_median_dictionary.pkl``; of
                ``mouseid2humanid.pkl``, too, if mice are to be read.

        Raises:
            FileNotFoundError: A file is not there.
            ValueError: A file is no dictionary, is damaged or holds more than data.
        """
        folder = Path(folder)
        tokens = {str(gene): int(token) for gene, token in read_pickle(folder / TOKENS).items()}
        medians = {str(gene): float(m) for gene, m in read_pickle(folder / MEDIANS).items()}
        if any(not (np.isfinite(m) and m > 0) for m in medians.values()):
            raise ValueError(f"{folder / MEDIANS}: holds medians that are not above zero")
        if PAD not in tokens:
            raise ValueError(f"{folder / TOKENS}: has no {PAD!r}; is it Geneformer's?")
        tokens.setdefault(CLS, len(tokens))  # the published cell encoder adds it at the end
        orthologs = {}
        if (folder / ORTHOLOGS).is_file():
            orthologs = read_pickle(folder / ORTHOLOGS)
        return cls(tokens, medians, orthologs)

    def of(self, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token and median of each of some Ensembl ids; -1 and NaN where there is none.

        Args:
            genes: ``[G]`` strings, human or mouse.
        """
        names, token, median = self._genes
        place = names.get_indexer([self.orthologs.get(gene, gene) for gene in genes])
        known = place >= 0
        return np.where(known, token[place], -1), np.where(known, median[place], np.nan)

    @cached_property
    def _genes(self) -> tuple[pd.Index, np.ndarray, np.ndarray]:
        """Names, tokens and medians of the genes that have both."""
        names = [gene for gene in self.tokens if gene in self.medians]
        token = np.array([self.tokens[gene] for gene in names] or [-1], dtype=np.int64)
        median = np.array([self.medians[gene] for gene in names] or [np.nan], dtype=np.float64)
        return pd.Index(names, dtype=object), token, median


def read_pickle(file: Path) -> dict[Any, Any]:
    """A dictionary of strings and numbers.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else.
    """
    if not file.is_file():
        raise FileNotFoundError(
            f"{file}: no such file; the dictionaries of Geneformer's first version are needed, "
            "as the official repository of SToFM has them in geneformer_001/geneformer"
        )
    try:
        with file.open("rb") as stream:
            values = _DataUnpickler(stream).load()
    except _Refused as error:
        raise ValueError(f"{file}: refused, nothing of it was run: {error}") from error
    except Exception as error:  # pickle raises a dozen kinds for a damaged file
        raise ValueError(f"{file}: cannot be read as a pickle ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: holds no dictionary but a {type(values).__name__}")
    return values


class _Refused(Exception):
    pass


class _DataUnpickler(pickle.Unpickler):
    """Makes dictionaries, strings, numbers and NumPy's numbers, and calls nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) == ("numpy.core.multiarray", "scalar"):
            return _scalar
        if (module, name) == ("numpy", "dtype"):
            return _dtype
        raise _Refused(f"it asks for {module}.{name}, and may hold dict, str, int and float only")


def _dtype(kind: str, *flags: Any) -> np.dtype:
    made = np.dtype(kind)
    if made.kind not in "biuf":
        raise _Refused(f"it holds NumPy's {made}, and may hold numbers only")
    return made


def _scalar(kind: np.dtype, raw: bytes) -> Any:
    if not isinstance(kind, np.dtype) or kind.kind not in "biuf" or len(raw) != kind.itemsize:
        raise _Refused("it holds a NumPy value that is no number")
    return np.frombuffer(raw, dtype=kind)[0].item()
