"""One reader of names: what is the same name, and what is none."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from stofm_geo._anndata_checks import check_slice_key
from stofm_geo._names import read_names
from stofm_geo.tasks.labels import training_labels

SAME = ["1", "2", None, "2"]
COLUMNS = {
    "float": pd.Series([1.0, 2.0, np.nan, 2.0]),
    "float32": pd.Series([1.0, 2.0, np.nan, 2.0], dtype=np.float32),
    "nullable": pd.Series([1, 2, None, 2], dtype="Int64"),
    "text of floats": pd.Series(["1.0", "2.0", "nan", "2.0"]),
    "text": pd.Series(["1", "2", "", "2"]),
    "string": pd.Series(["1", "2", pd.NA, "2"], dtype="string"),
    "mixed": pd.Series([1, 2.0, None, "2.0"], dtype=object),
    "objects": pd.Series([1, "2", pd.NA, np.float64(2)], dtype=object),
    "bytes": pd.Series([b"1", b"2", None, b"2"], dtype=object),
    "categories of text": pd.Series(["1", "2", "None", "2"], dtype="category"),
    "categories of numbers": pd.Series([1.0, 2.0, np.nan, 2.0]).astype("category"),
    "blanks around": pd.Series(["1 ", " 2", " ", "2"]),
    "unused categories": pd.Series(pd.Categorical(["1", "2", None, "2"], ["0", "1", "2"])),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_one_name_however_it_is_stored(kind) -> None:
    assert read_names(COLUMNS[kind]).tolist() == SAME


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NA", "<NA>", "N/A", "null", "", "  "])
@pytest.mark.parametrize("dtype", [object, "string", "category"])
def test_words_for_missing_values_are_no_names(word, dtype) -> None:
    column = pd.Series(["L1", word, "L2"]).astype(dtype)
    assert read_names(column).tolist() == ["L1", None, "L2"]


def test_booleans_keep_their_names() -> None:
    assert read_names(pd.Series([True, False])).tolist() == ["True", "False"]
    with_missing = pd.Series([True, None, False], dtype="boolean")
    for column in (with_missing, with_missing.astype(object), with_missing.astype(str)):
        assert read_names(column).tolist() == ["True", None, "False"]


def test_names_that_only_look_like_numbers_stay() -> None:
    for names in (["v1.0", "1.0"], ["1.5.0", "1.0"], ["01", "1"], ["Nan", "Na", "Nana"]):
        assert read_names(pd.Series(names)).tolist() == names
    assert read_names(pd.Series([0.5, 1.0])).tolist() == ["0.5", "1"]
    assert read_names(pd.Series(["0.5", "1.0", "10"])).tolist() == ["0.5", "1", "10"]


def test_words_are_counted_in_one_warning() -> None:
    column = pd.Series(["None", "NA", "None", "a", None, ""])
    said = r"obs\['x'\]: words .* in 3 of 6 cells \('None' 2, 'NA' 1\); rename real names"
    with pytest.warns(UserWarning, match=said) as caught:
        read_names(column, "obs['x']")
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_names(pd.Series(["a", None, ""]), "obs['x']")


def test_slices_by_numbers_are_the_same_slices() -> None:
    obs = pd.DataFrame({"a": [1, 2, 10], "b": [1.0, 2.0, 10.0], "c": ["1.0", "nan", "2.0"]})
    for key in ("a", "b"):
        assert check_slice_key(obs, key).tolist() == ["1", "2", "10"]
    with pytest.raises(ValueError, match=r"obs\['c'\] is missing for 1 of 3 cells .'nan', 'None'"):
        check_slice_key(obs, "c")


def test_a_column_that_is_there_twice_is_refused() -> None:
    obs = pd.DataFrame([["a", "b"], ["a", "c"]], columns=["x", "x"])
    with pytest.raises(ValueError, match="obs has several columns 'x'; rename or drop one"):
        check_slice_key(obs, "x")


def test_classes_that_are_hardly_meant_are_told_of() -> None:
    obs = pd.DataFrame({"case": ["L1", "l1", "L2"] * 4, "score": [0.5, 1.5, np.nan] * 4})
    adata = AnnData(obs=obs)
    with pytest.warns(UserWarning, match=r"differ only in case \('L1' and 'l1'\)"):
        assert training_labels([adata], ["a"], "case")[1] == ["L1", "L2", "l1"]
    with pytest.warns(UserWarning, match=r"a: obs\['score'\] holds fractional numbers"):
        training_labels([adata], ["a"], "score")
