from __future__ import annotations

import json
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from anndata import AnnData

from stofm_geo.genes import Vocabulary
from stofm_geo.genes.vocabulary import read_pickle


@pytest.fixture
def folder(tmp_path):
    tokens = {"<pad>": 0, "<mask>": 1, "ENSG1": 2, "ENSG2": np.int64(3)}
    medians = {"ENSG1": np.float64(2.0), "ENSG2": 0.5}
    for name, values in (("token_dictionary", tokens), ("gene_median_dictionary", medians)):
        (tmp_path / f"{name}.pkl").write_bytes(pickle.dumps(values))
    return tmp_path


def test_published_dictionaries(folder) -> None:
    vocabulary = Vocabulary.from_pickles(folder)
    assert vocabulary.tokens["<cls>"] == 4  # after all others
    token, median = vocabulary.lookup(np.array(["ENSG2", "ENSMUSG1", "ENSG1", "<pad>"]))
    assert token.tolist() == [3, -1, 2, -1]
    np.testing.assert_equal(median, [0.5, np.nan, 2.0, np.nan])
    assert all(type(value) is float for value in vocabulary.medians.values())


def test_mice_are_read_as_people(folder) -> None:
    (folder / "mouseid2humanid.pkl").write_bytes(pickle.dumps({"ENSMUSG1": "ENSG1"}))
    token, _ = Vocabulary.from_pickles(folder).lookup(np.array(["ENSMUSG1", "ENSMUSG2"]))
    assert token.tolist() == [2, -1]
    assert [len(part) for part in Vocabulary.from_pickles(folder).lookup(np.array([]))] == [0, 0]


class _Hostile:
    def __init__(self, call, *arguments) -> None:
        self.given = call, arguments

    def __reduce__(self):
        return self.given


@pytest.mark.parametrize(
    "hostile",
    [
        _Hostile(os.system, "touch hostile-was-here"),
        {"ENSG1": _Hostile(os.system, "touch hostile-was-here")},
        _Hostile(eval, "open('hostile-was-here', 'w')"),
        OrderedDict(a=1),
        {"ENSG1": np.array([1.0, 2.0])},
        {"ENSG1": np.datetime64("2020-01-01")},
        {"ENSG1": 1j},
    ],
)
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_is_more_than_data_is_refused(tmp_path, monkeypatch, hostile, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "token_dictionary.pkl"
    file.write_bytes(pickle.dumps(hostile, protocol))
    with pytest.raises(ValueError, match="rejected without running any of it"):
        read_pickle(file)
    assert not (tmp_path / "hostile-was-here").exists()


def test_what_is_no_dictionary_is_named(folder) -> None:
    file = folder / "token_dictionary.pkl"
    whole = file.read_bytes()
    for content, message in (
        (pickle.dumps([1, 2]), "rejected without running any of it: it holds lists"),
        (whole[:30], "cannot be read as a pickle"),
        (pickle.dumps({"ENSG1": 2}), "has no '<pad>'"),
    ):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            Vocabulary.from_pickles(folder)
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"token_dictionary\.pkl: no such file"):
        Vocabulary.from_pickles(folder)


def test_medians_must_divide(folder) -> None:
    (folder / "gene_median_dictionary.pkl").write_bytes(pickle.dumps({"ENSG1": 0.0}))
    with pytest.raises(ValueError, match="medians that are not above zero"):
        Vocabulary.from_pickles(folder)


@pytest.mark.shared
def test_the_published_files(shared_data) -> None:
    vocabulary = Vocabulary.from_pickles(shared_data.parent / "vocab")
    assert vocabulary.tokens["<pad>"] == 0 and vocabulary.tokens["<cls>"] == 25426
    assert len(vocabulary.medians) == 25424 and len(vocabulary.orthologs) > 10_000


def test_json_and_back(folder, tmp_path) -> None:
    (folder / "mouseid2humanid.pkl").write_bytes(pickle.dumps({"ENSMUSG1": "ENSG1"}))
    vocabulary = Vocabulary.read(folder)
    vocabulary.to_json(tmp_path / "vocabulary.json")
    assert Vocabulary.from_json(tmp_path / "vocabulary.json") == vocabulary
    assert Vocabulary.read(tmp_path) == vocabulary == Vocabulary.read(tmp_path / "vocabulary.json")
    before = (tmp_path / "vocabulary.json").read_bytes()
    vocabulary.to_json(tmp_path / "vocabulary.json")
    assert (tmp_path / "vocabulary.json").read_bytes() == before


def test_every_changed_number_is_told(tmp_path) -> None:
    file = tmp_path / "v.json"
    Vocabulary({"<pad>": 0, "A": 1, "<cls>": 2}, {"A": 1.5}, {"M": "A"}).to_json(file)
    whole = file.read_text()
    for old, new in (("1.5", "1.7"), ('"A": 1', '"A": 3'), ('"M"', '"N"'), ('"A"\n', '"B"\n')):
        assert old in whole
        file.write_text(whole.replace(old, new))
        with pytest.raises(ValueError, match=r"v\.json: is not what was written; .* remove 'vocab"):
            Vocabulary.from_json(file)
    file.write_text(whole.replace("vocabulary_sha256", "vocabulary_sha257"))
    with pytest.raises(ValueError, match=r"v\.json: has unknown vocabulary_sha257"):
        Vocabulary.from_json(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": [1]}, "is not a vocabulary; it needs tokens, medians, orthologs"),
        ({"tokens": {"<pad>": 0, "<cls>": 1, "A": 1.5}}, r"not integers \(A\)"),
        ({"tokens": {"<pad>": 0, "<cls>": 1, "A": True}}, r"not integers \(A\)"),
        ({"tokens": {"<pad>": 0, "<cls>": 1, "A": -1}}, r"not integers \(A\)"),
        ({"tokens": {"<pad>": 0, "<cls>": 1, "A": 1}}, "two genes have the same token"),
        ({"tokens": {"A": 0}}, "has no <pad>, <cls> among its tokens"),
        ({"medians": {"A": 0}}, r"not above zero \(A\)"),
        ({"medians": {"A": float("nan")}}, r"not above zero \(A\)"),
        ({"medians": {"A": "1"}}, r"not above zero \(A\)"),
        ({"orthologs": {"M": 1}}, r"not names \(M\)"),
    ],
)
def test_unfit_json_is_named(tmp_path, change: dict, message: str) -> None:
    good = {"tokens": {"<pad>": 0, "A": 1, "<cls>": 2}, "medians": {"A": 1}, "orthologs": {}}
    file = tmp_path / "v.json"
    file.write_text(json.dumps(good))
    assert Vocabulary.from_json(file).medians == {"A": 1.0}
    file.write_text(json.dumps(good | change))
    with pytest.raises(ValueError, match=message):
        Vocabulary.from_json(file)
    file.write_text("{")
    with pytest.raises(ValueError, match="cannot be read as JSON"):
        Vocabulary.from_json(file)
    with pytest.raises(FileNotFoundError, match="no such file; Vocabulary"):
        Vocabulary.read(tmp_path / "other.json")


def test_a_corpus_makes_a_vocabulary() -> None:
    adata = AnnData(np.array([[3, 0, 1], [1, 0, 0]], dtype=np.float32))
    adata.var_names = ["ENSG7.2", "ENSG2", "ENSG1"]
    vocabulary = Vocabulary.from_corpus([adata])
    assert vocabulary.tokens == {"<pad>": 0, "<mask>": 1, "ENSG1": 2, "ENSG7": 3, "<cls>": 4}
    assert vocabulary.medians == pytest.approx({"ENSG1": 2500, "ENSG7": 8750}, rel=0.01)
    assert vocabulary.lookup(np.array(["ENSG7", "ENSG2"]))[0].tolist() == [3, -1]
