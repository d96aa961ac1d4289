"""Components of gene fractions: linear in the counts, with equal noise, and back."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from stofm_geo.benchmark import DATASETS, MODELS, TASKS
from stofm_geo.genes.fractions import FractionComponents
from stofm_geo.genes.splitting import split_counts


def components_of(slices: list[sp.csr_matrix], n_components: int) -> FractionComponents:
    """Components whose signal does not matter."""
    return FractionComponents.from_counts(slices, slices, n_components)


@pytest.fixture(scope="module")
def counts() -> sp.csr_matrix:
    random = np.random.default_rng(0)
    types = random.gamma(1, 1, (4, 30))
    rate = types[random.integers(4, size=300)] * random.gamma(5, 1, (300, 1))
    return sp.csr_matrix(random.poisson(rate).astype(np.float32))


def total_of(counts: sp.csr_matrix) -> np.ndarray:
    return np.asarray(counts.sum(axis=1)).ravel()


def test_against_a_dense_decomposition(counts) -> None:
    found = components_of([counts[:100], counts[100:]], 5)
    fractions = counts.toarray() / total_of(counts)[:, None]
    mean = fractions.mean(axis=0)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-5)
    scaled = (fractions - mean) / np.sqrt(mean)
    u, s, _ = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)
    y = found(counts, total_of(counts))
    assert y.dtype == np.float32 and y.shape == (300, 5)
    for k in range(5):
        assert abs(np.corrcoef(y[:, k], u[:, k])[0, 1]) > 1 - 1e-5
    wide = y * found.scale  # unwhitened
    np.testing.assert_allclose(wide.std(axis=0) * np.sqrt(300), s[:5], rtol=1e-3)
    assert np.square(found.widths).mean() == pytest.approx(1)


def test_a_part_of_the_molecules_is_unbiased(counts) -> None:
    components = components_of([counts], 5)
    whole, random = components(counts, total_of(counts)), np.random.default_rng(0)
    parts = [split_counts(counts, 0.3, random)[0] for _ in range(400)]
    mean = np.mean([components(part, 0.3 * total_of(counts)) for part in parts], axis=0)
    spread = np.std([components(part, 0.3 * total_of(counts)) for part in parts], axis=0)
    error = (mean - whole) / (spread / 20)
    assert np.square(error).mean() == pytest.approx(1, abs=0.15)


def test_decoding_gives_fractions_near_the_true_ones(counts) -> None:
    components = components_of([counts], 29)
    found = components.decode(components(counts, total_of(counts)))
    fractions = counts.toarray() / total_of(counts)[:, None]
    assert found.min() > 0
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-5)
    assert np.abs(found - fractions).max() < 0.01
    average = components.decode(np.zeros((1, 29), dtype=np.float32))
    np.testing.assert_allclose(average[0], components.mean, rtol=1e-5)


def test_cells_and_genes_without_counts(counts) -> None:
    empty = counts.tolil()
    empty[3], empty[:, 7] = 0, 0
    empty = sp.csr_matrix(empty)
    empty.eliminate_zeros()
    components = components_of([empty], 4)
    y = components(empty, total_of(empty))
    assert np.isfinite(y).all() and np.isfinite(components.decode(y)).all()
    assert components.decode(y)[:, 7].max() == 0


def test_expected_components_are_nearer_to_expression_than_counts() -> None:
    random = np.random.default_rng(0)
    mean = random.dirichlet(np.ones(200))
    program = np.sign(random.normal(size=(2, 200)))  # two axes of expression, others are noise
    score = random.normal(size=(2000, 2)) * (0.3, 0.15)
    fractions = mean * np.exp(score @ program)
    fractions /= fractions.sum(axis=1, keepdims=True)
    total = random.integers(50, 500, 2000)
    counts = random.poisson(fractions * total[:, None]).astype(np.float32)
    held_out, train = split_counts(sp.csr_matrix(counts), 0.2, random)
    found = FractionComponents.from_counts([train], [held_out], 12)
    scaled = sp.csr_matrix((fractions * 1e4).astype(np.float32))
    true = found(scaled, np.full(2000, 1e4)) * found.scale
    signal = true.var(axis=0)
    assert (signal[:2] > 10 * signal[2:].max()).all()
    np.testing.assert_allclose(found.signal[:2], signal[:2], rtol=0.2)
    assert found.signal[2:].max() < 0.1 * found.signal[1]  # though training molecules vary there
    seen = found(train, total_of(train)) * found.scale
    assert seen.var(axis=0)[2:].min() > 0.5 * np.mean(1 / total)
    expected, total = found.expected(train), total_of(train)[:, None]
    shrunk = found.signal / (found.signal + found.noise / total)
    np.testing.assert_allclose(expected, found(train, total_of(train)) * shrunk, rtol=1e-5)
    # About Poisson for expression, more for axes fitted to the noise of these molecules.
    assert found.noise[:2].max() < 1.25 and found.noise[2:].min() > found.noise[:2].max()
    errors = [np.square(y - true).sum(axis=1).mean() for y in (seen, expected * found.scale)]
    assert errors[1] < 0.5 * errors[0]
    assert (found.widths[:2] > 3 * found.widths[2:].max()).all()
    nothing = sp.csr_matrix((3, 200), dtype=np.float32)
    assert (found.expected(nothing) == 0).all()


def test_arrays_that_do_not_match_are_refused(counts) -> None:
    found = components_of([counts], 5)
    found.check(5, 30)
    with pytest.raises(ValueError, match=r"mean of the fractions is float32 \(30,\), not float32"):
        found.check(5, 31)
    found.signal[0] = np.nan
    with pytest.raises(ValueError, match="must be above zero, signals not below"):
        found.check(5, 30)


def test_few_cells_with_many_genes_are_not_trusted() -> None:
    """Spots of one mean: axes are nothing but noise, of which the variance is large."""
    random = np.random.default_rng(0)
    rate = random.gamma(0.3, 1, 5000) * 0.3
    counts = sp.csr_matrix(random.poisson(np.tile(rate, (250, 1))).astype(np.float32))
    held_out, train = split_counts(counts, 0.1, random)
    found = FractionComponents.from_counts([train], [held_out], 50)
    seen, expected = found(train, total_of(train)), found.expected(train)
    assert np.square(expected).sum() < 0.02 * np.square(seen).sum()


@pytest.mark.shared
@pytest.mark.parametrize("slice_name", ["A1", "D1"])
def test_a_real_slice_of_few_spots(shared_data, slice_name) -> None:
    slices = DATASETS["her2st"].read(shared_data)
    (split,) = TASKS["molecules"].splits({slice_name: slices[slice_name]}, "her2st")
    problem, score = split.make()
    found = {name: MODELS[name].solve(problem, 0)[0] for name in ("mean", "PCA (shrunken)")}
    errors = {name: score(fractions)["error"] for name, fractions in found.items()}
    assert errors["PCA (shrunken)"] < 0.9 * errors["mean"]


def test_genes_that_are_missing_are_as_in_the_mean(counts) -> None:
    found = components_of([counts], 5)
    present = np.arange(30) % 3 > 0
    # Of the missing genes, cells have just what the mean has; of the others, anything.
    share = found.mean[present].sum()
    others = counts.toarray() * present
    others /= others.sum(axis=1, keepdims=True)
    whole = sp.csr_matrix(share * others + np.where(present, 0, found.mean))
    ones = np.ones(len(others))
    known = found.of_genes(present)
    np.testing.assert_allclose(known(sp.csr_matrix(others), ones), found(whole, ones), atol=1e-5)
    np.testing.assert_allclose(known.mean.sum(), 1, rtol=1e-5)
    np.testing.assert_array_equal(found.of_genes(present | True).mean, found.mean)
