"""Tokens and median expression of genes."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

from stofm_geo._files import atomic_path, read_json
from stofm_geo._hash import check_hash, with_hash
from stofm_geo._validation import preview
from stofm_geo.genes.medians import corpus_medians

TOKENS, MEDIANS, ORTHOLOGS = (
    "token_dictionary.pkl",
    "gene_median_dictionary.pkl",
    "mouseid2humanid.pkl",
)
FILE = "vocabulary.json"
PAD, MASK, CLS = "<pad>", "<mask>", "<cls>"
_PARTS = ("tokens", "medians", "orthologs")
_HASH = "vocabulary_sha256"


@dataclass(frozen=True)
class Vocabulary:
    """Tokens and medians of genes by Ensembl id, for rank-value encoding.

    Attributes:
        tokens: Token of each gene and of the special ``<pad>``, ``<mask>`` and ``<cls>``.
        medians: Median of each gene's counts above zero, per 10 000 counts of a cell.
        orthologs: Human id of a mouse id; other mouse genes have no token.

    Examples:
        >>> import numpy as np
        >>> from stofm_geo.genes import Vocabulary
        >>> tokens = {"<pad>": 0, "<mask>": 1, "ENSG00000131095": 2, "<cls>": 3}
        >>> vocabulary = Vocabulary(tokens, {"ENSG00000131095": 1.5})
        >>> token, median = vocabulary.lookup(np.array(["ENSG00000131095", "ENSG00000000003"]))
        >>> token.tolist(), median.tolist()
        ([2, -1], [1.5, nan])
    """

    tokens: dict[str, int]
    medians: dict[str, float]
    orthologs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_pickles(cls, folder: str | Path) -> Vocabulary:
        """Read the published dictionaries of Geneformer, which are pickles.

        Only dictionaries, strings and numbers are unpickled; anything else is rejected before it
        runs.

        Args:
            folder: Folder with ``token_dictionary.pkl``, ``gene_median_dictionary.pkl`` and, for
                mouse genes, ``mouseid2humanid.pkl``.

        Raises:
            FileNotFoundError: A file does not exist.
            ValueError: A file is not a dictionary, is damaged or holds more than data.
        """
        folder = Path(folder)
        tokens, medians = (read_pickle(folder / name) for name in (TOKENS, MEDIANS))
        orthologs = {}
        if (folder / ORTHOLOGS).is_file():
            orthologs = read_pickle(folder / ORTHOLOGS)
        _check(tokens, medians, orthologs, [folder / name for name in (TOKENS, MEDIANS, ORTHOLOGS)])
        if PAD not in tokens:
            raise ValueError(f"{folder / TOKENS}: has no {PAD!r}; is it Geneformer's?")
        tokens.setdefault(CLS, len(tokens))  # the published cell encoder appends it
        return cls(tokens, {gene: float(m) for gene, m in medians.items()}, orthologs)

    @classmethod
    def from_json(cls, file: str | Path) -> Vocabulary:
        """Read a file of :meth:`to_json`; the checksum may be missing.

        Raises:
            FileNotFoundError: The file does not exist.
            ValueError: The file is not a vocabulary, was changed, or holds invalid values.
        """
        file = Path(file)
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; Vocabulary.to_json writes one")
        values = read_json(file)
        if not isinstance(values, dict) or any(type(values.get(p)) is not dict for p in _PARTS):
            raise ValueError(f"{file}: is not a vocabulary; it needs {', '.join(_PARTS)}")
        check_hash(values, _HASH, _PARTS, file)
        tokens, medians, orthologs = (values[part] for part in _PARTS)
        _check(tokens, medians, orthologs, [file] * 3)
        if missing := [name for name in (PAD, CLS) if name not in tokens]:
            raise ValueError(f"{file}: has no {preview(missing)} among its tokens")
        return cls(tokens, {gene: float(m) for gene, m in medians.items()}, orthologs)

    def to_json(self, file: str | Path) -> None:
        """Write vocabulary and checksum as JSON, which is read without unpickling; deterministic.

        Raises:
            OSError: The file cannot be written.
        """
        values = with_hash({part: getattr(self, part) for part in _PARTS}, _HASH)
        with atomic_path(file) as temporary:
            temporary.write_text(json.dumps(values, indent=0) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: str | Path) -> Vocabulary:
        """Read a JSON file, a folder with ``vocabulary.json``, or one with Geneformer's files.

        Raises:
            FileNotFoundError: The file or folder does not exist.
            ValueError: The file cannot be read.
        """
        path = Path(path)
        if path.is_dir() and not (path / FILE).is_file():
            return cls.from_pickles(path)
        return cls.from_json(path / FILE if path.is_dir() else path)

    @classmethod
    def from_corpus(cls, slices: Iterable[AnnData]) -> Vocabulary:
        r"""Compute the vocabulary of all genes with counts in a corpus.

        The median of a gene is that of its values above zero of :math:`10^4 \, c_g / \sum_{g'}
        c_{g'}` (Theodoris et al. 2023), computed in one pass with an error below 1 % (see
        :func:`~stofm_geo.genes.medians.corpus_medians`). Tokens are in the order of Geneformer:
        ``<pad>`` 0, ``<mask>`` 1, the genes by name, ``<cls>`` last. Mouse ids are kept, not mapped
        to human ones.

        Args:
            slices: Counts in ``X`` and Ensembl ids; in memory or opened with ``backed="r"``, and
                then read in blocks of rows.

        Raises:
            KeyError, TypeError, ValueError: Invalid counts or gene names, or no counts.
        """
        medians = corpus_medians(slices)
        names = [PAD, MASK, *medians, CLS]
        return cls({name: token for token, name in enumerate(names)}, medians)

    def lookup(self, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return token ``[G]`` and median ``[G]`` of each gene; -1 and NaN if unknown.

        Args:
            genes: Human or mouse Ensembl ids ``[G]``.
        """
        names, token, median = self._genes
        index = names.get_indexer([self.orthologs.get(gene, gene) for gene in genes.tolist()])
        known = index >= 0
        return np.where(known, token[index], -1), np.where(known, median[index], np.nan)

    @cached_property
    def _genes(self) -> tuple[pd.Index, np.ndarray, np.ndarray]:
        """Return names, tokens and medians of the genes that have both."""
        names = [gene for gene in self.tokens if gene in self.medians]
        token = np.array([self.tokens[gene] for gene in names] or [-1], dtype=np.int64)
        median = np.array([self.medians[gene] for gene in names] or [np.nan], dtype=np.float64)
        return pd.Index(names, dtype=object), token, median


def _check(
    tokens: dict[Any, Any], medians: dict[Any, Any], orthologs: dict[Any, Any], files: list[Path]
) -> None:
    """Check the content of the dictionaries read from ``files``.

    Raises:
        ValueError: The content is invalid.
    """
    limit = 10 * len(tokens) + 1000  # memory is allocated for all tokens below the largest
    checks = (
        ("tokens that are not integers", tokens, lambda t: type(t) is int and t >= 0),
        (f"tokens of {limit} or more for {len(tokens)} genes", tokens, lambda t: t < limit),
        ("medians that are not above zero", medians, _above_zero),
        ("orthologs that are not names", orthologs, lambda human: type(human) is str),
    )
    for file, values in zip(files, (tokens, medians, orthologs), strict=True):
        if invalid := [gene for gene in values if type(gene) is not str]:
            raise ValueError(f"{file}: holds names that are not text ({preview(invalid)})")
    file_of = dict(zip(map(id, (tokens, medians, orthologs)), files, strict=True))
    for problem, values, is_valid in checks:
        if invalid_genes := [gene for gene, value in values.items() if not is_valid(value)]:
            raise ValueError(f"{file_of[id(values)]}: holds {problem} ({preview(invalid_genes)})")
    if len(set(tokens.values())) < len(tokens):
        raise ValueError(f"{files[0]}: two genes have the same token")


def _above_zero(value: object) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf  # type: ignore[operator]


def read_pickle(file: Path) -> dict[Any, Any]:
    """Read a dictionary of strings and numbers.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file holds anything else.
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
        raise ValueError(f"{file}: rejected without running any of it: {error}") from error
    except Exception as error:  # pickle raises many types for a damaged file
        raise ValueError(f"{file}: cannot be read as a pickle ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"{file}: must hold a dictionary; found {type(values).__name__}")
    return values


class _Refused(Exception):
    pass


def _dispatch() -> dict[int, Any]:
    def refuse(unpickler: Any) -> None:
        raise _Refused("it holds lists or sets, and may hold dict, str, int and float only")

    def flat(load: Any) -> Any:
        def loaded(unpickler: Any) -> None:
            load(unpickler)
            if any(isinstance(part, tuple | dict) for part in unpickler.stack[-1]):
                raise _Refused("it holds tuples of tuples, and may hold numbers only")

        return loaded

    usual = pickle._Unpickler.dispatch
    tuples = (pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3)
    others = (pickle.LIST, pickle.EMPTY_LIST, pickle.EMPTY_SET, pickle.FROZENSET)
    return {
        **usual,
        **{code[0]: flat(usual[code[0]]) for code in tuples},
        **{code[0]: refuse for code in others},
    }


class _DataUnpickler(pickle._Unpickler):
    """Unpickler of one dictionary of strings, numbers and NumPy numbers, which calls nothing.

    It is based on the Python implementation, which is slower than that in C by a second per million
    genes, but can reject containers while reading: nested containers of a few bytes could exhaust
    the memory.
    """

    dispatch = _dispatch()

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")
        if (module, name) == ("numpy.core.multiarray", "scalar"):
            return _scalar
        if (module, name) == ("numpy", "dtype"):
            return _dtype
        raise _Refused(f"it refers to {module}.{name}, and may hold dict, str, int and float only")


def _dtype(kind: str, *flags: Any) -> np.dtype:
    dtype = np.dtype(kind)
    if dtype.kind not in "biuf":
        raise _Refused(f"it holds NumPy's {dtype}, and may hold numbers only")
    return dtype


def _scalar(kind: np.dtype, raw: bytes) -> Any:
    if not isinstance(kind, np.dtype) or kind.kind not in "biuf" or len(raw) != kind.itemsize:
        raise _Refused("it holds a NumPy value that is not a number")
    return np.frombuffer(raw, dtype=kind)[0].item()
