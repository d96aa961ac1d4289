from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from anndata import AnnData

from stofm_geo import from_anndata
from stofm_geo.data import read_slice_file
from stofm_geo.genes import PanelEncoder, harmonize
from stofm_geo.genes.components import Components
from stofm_geo.genes.panel_encoder import unit_axes
from tests.helpers import make_slice

FILES = 14


@pytest.fixture
def encoder() -> PanelEncoder:
    torch.manual_seed(0)
    encoder = PanelEncoder.from_slices(
        [make_slice(genes=12)], out_channels=8, hidden_channels=16, n_components=6
    )
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter)
    torch.nn.init.zeros_(encoder.technology.weight)
    return encoder.eval()


def reference(encoder: PanelEncoder, counts: np.ndarray) -> torch.Tensor:
    """The formula of the docstring, dense."""
    share = counts / counts.sum(axis=1, keepdims=True)
    v = np.sqrt(share)
    v = v - v.mean(axis=0)
    v = v / np.sqrt((v**2).sum(axis=1).mean())
    k = encoder.n_components
    variance, axes = np.linalg.eigh(v.T @ v / (len(v) - 1))
    variance, axes = variance[::-1][:k], axes[:, ::-1][:, :k]
    t = v @ axes / variance**0.25
    t = t / np.sqrt((np.sqrt(variance)).mean())
    u, s, v = np.linalg.svd(axes.T @ encoder.embedding.detach().numpy() / np.sqrt(k))
    h = torch.from_numpy(t @ (u * np.sqrt(s)) @ v[: len(s)]).float()
    return h + encoder.narrow(torch.nn.functional.gelu(encoder.wide(encoder.norm(h))))


def test_vectors_are_those_of_the_formula(encoder) -> None:
    adata = make_slice(50, genes=12)
    with torch.no_grad():
        expected = reference(encoder, adata[:, encoder.genes].X.toarray()).numpy()
    np.testing.assert_allclose(encoder.transform(adata), expected, atol=1e-3, rtol=1e-3)


def test_unit_of_counts_order_and_storage_of_genes_do_not_matter(encoder) -> None:
    adata = make_slice(50, genes=12)
    expected = encoder.transform(adata)
    other = AnnData(adata.X.toarray()[:, ::-1] * 4, obs=adata.obs, var=adata.var[::-1])
    np.testing.assert_allclose(encoder.transform(other), expected, rtol=1e-4, atol=1e-4)


def test_a_part_of_the_panel_and_genes_never_seen(encoder) -> None:
    adata = make_slice(50, genes=12)
    part = adata[:, :9].copy()
    expected = encoder.transform(part)
    strange = sp.hstack([part.X, sp.csr_matrix(np.ones((50, 1), np.int32))], format="csr")
    wider = AnnData(strange, var={"_index": [*part.var_names, "new"]})
    wider.var_names = [*part.var_names, "new"]
    np.testing.assert_allclose(encoder.transform(wider), expected, rtol=1e-4, atol=1e-4)


def test_cells_without_counts_are_average_and_told(encoder) -> None:
    adata = make_slice(50, genes=12)
    counts = adata.X.toarray()
    counts[[3, 7]] = 0
    adata.X = sp.csr_matrix(counts)
    with pytest.warns(UserWarning, match="2 of 50 cells have no counts and get the vector of an"):
        found = encoder.transform(adata)
    average = encoder.refine(torch.zeros(1, 8))
    np.testing.assert_allclose(found[[3, 7]], average.detach().expand(2, 8).numpy(), rtol=1e-5)


def test_blocks_of_cells_are_as_all_at_once(encoder, monkeypatch) -> None:
    adata = make_slice(50, genes=12)
    expected = encoder.transform(adata)
    monkeypatch.setattr("stofm_geo.genes.panel_encoder.BLOCK", 7)
    np.testing.assert_allclose(encoder.transform(adata), expected, rtol=1e-4, atol=1e-4)


def test_technologies_have_tokens_and_unknown_ones_have_none() -> None:
    first, second = make_slice(40), make_slice(40)
    first.uns["technology"] = "MERFISH"
    encoder = PanelEncoder.from_slices([first, second], out_channels=8)
    torch.nn.init.normal_(encoder.narrow.weight)
    torch.nn.init.normal_(encoder.technology.weight[1:])
    assert encoder.technologies == ["MERFISH"]
    assert [encoder.technology_index(part) for part in (first, second)] == [1, 0]
    known = encoder.transform(first)
    first.uns["technology"] = "one of tomorrow"
    new = encoder.transform(first)
    assert not np.allclose(known, new)
    np.testing.assert_array_equal(new, encoder.transform(second))


def test_gradients_reach_embeddings_through_the_sums(encoder, monkeypatch) -> None:
    adata = make_slice(20, genes=12)
    own = Components.from_counts(encoder.known_counts(adata), 6)
    encoder.double()
    t = torch.from_numpy(own(encoder.known_counts(adata))).double().requires_grad_()
    panel, loadings = torch.from_numpy(own.panel), torch.from_numpy(own.loadings).double()
    embedding = encoder.embedding.detach().clone().requires_grad_()

    def vectors(embedding, t):
        weights = {"embedding": embedding}
        return torch.func.functional_call(encoder, weights, (t, panel, loadings))

    # How far the embeddings are from an isometry is taken as it is, without gradients.
    monkeypatch.setattr(
        "stofm_geo.genes.panel_encoder._halfway_to_isometry", lambda axes: torch.eye(6).double()
    )
    assert torch.autograd.gradcheck(vectors, (embedding, t))


def test_components_embeddings_have_the_roots_of_their_singular_values(encoder) -> None:
    own = Components.from_counts(encoder.known_counts(make_slice(20, genes=12)), 6)
    panel, loadings = torch.from_numpy(own.panel), torch.from_numpy(own.loadings)
    plain = unit_axes(loadings) @ encoder.embedding[panel]
    expected = torch.linalg.svdvals(plain).sqrt()
    torch.testing.assert_close(
        torch.linalg.svdvals(encoder.component_embeddings(panel, loadings)), expected
    )
    # Components that the slice lacks stay zeros.
    filled = torch.cat([loadings, torch.zeros(len(panel), 2)], dim=1)
    found = encoder.component_embeddings(panel, filled)
    assert not found[6:].any()
    torch.testing.assert_close(found[:6], encoder.component_embeddings(panel, loadings))


def test_it_takes_the_place_of_other_features(encoder) -> None:
    adata = make_slice(50, genes=12)
    data = from_anndata(adata, encoder)
    np.testing.assert_array_equal(data.x.numpy(), encoder.transform(adata))


def test_genes_that_do_not_fit(encoder) -> None:
    adata = make_slice(50, genes=12)
    strange = adata.copy()
    strange.var_names = [f"strange{i}" for i in range(12)]
    with pytest.raises(ValueError, match=r"knows 0 of 12 genes, with 0% .* genes\.harmonize"):
        encoder.known_counts(strange)
    half = adata.copy()
    half.var_names = [*adata.var_names[:5], *strange.var_names[5:]]
    with pytest.warns(UserWarning, match=r"knows 5 of 12 genes, with \d\d% .* are left out"):
        encoder.known_counts(half)
    with pytest.raises(ValueError, match="genes occur twice: a"):
        PanelEncoder(["a", "b", "a"])
    with pytest.raises(ValueError, match="genes is empty"):
        PanelEncoder([])
    with pytest.raises(ValueError, match="out_channels must be above zero"):
        PanelEncoder(["a"], out_channels=0)


@pytest.mark.shared
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.slow)], ids=["few", "all"])
def test_one_encoder_reads_all_files(shared_data, step: int) -> None:
    files = sorted(
        f for f in shared_data.glob("*.h5ad") if not f.stem.endswith("_pca")
    )  # no counts
    assert len(files) == FILES
    slices = [harmonize(read_slice_file(file)[:200].copy()) for file in files[::step]]
    encoder = PanelEncoder.from_slices(slices, out_channels=8)
    for part in slices:
        vectors = encoder.transform(part)
        assert vectors.shape == (part.n_obs, 8) and np.isfinite(vectors).all()
        assert vectors.std(axis=0).min() > 0.01
