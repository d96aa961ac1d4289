"""``stofm-geo embed | demo``: embeddings and spatial domains of slices."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from stofm_geo._keys import Keys
from stofm_geo.cli import _options as options
from stofm_geo.cli._output import cli_errors, echo
from stofm_geo.cli._tables import read_tables, write_tables

if TYPE_CHECKING:
    from anndata import AnnData

    from stofm_geo.models.prepare import SpatialKeys
    from stofm_geo.tasks.integration import Method

_OFFICIAL, _MINI = "official:", "stofm-geo-mini"


@cli_errors
def embed(
    slices: options.Slices,
    output: options.OutputTable,
    model: Annotated[
        str | None,
        typer.Option(
            help="Folder or hub name of a saved model, or official:DIR, a checkpoint of the "
            "published SToFM. (default: fit one to the slices)"
        ),
    ] = None,
    zero_shot: Annotated[
        bool,
        typer.Option(
            "--zero-shot",
            help="Use stofm-geo-mini instead of fitting a model: a small model installed with the "
            "library, for any panel of human or mouse genes.",
        ),
    ] = False,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="With official:DIR, Geneformer's dictionaries (a folder), or a .json."),
    ] = None,
    slice_key: options.SliceKey = None,
    spatial_key: options.SpatialKey = Keys.SPATIAL,
    table: options.Table = None,
    coordinate_system: options.CoordinateSystem = None,
    use_rep: Annotated[
        str | None,
        typer.Option(help="Key in obsm of precomputed cell vectors. (default: encode X)"),
    ] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            help="Encoder to fit: pca, or panel for files of different panels or species, whose "
            "genes become human Ensembl ids. (default: pca)"
        ),
    ] = None,
    n_domains: Annotated[
        int | None,
        typer.Option(
            help="How many spatial domains to find (default: as many as Leiden finds).", min=2
        ),
    ] = None,
    integrate: Annotated[
        str,
        typer.Option(
            help="How differences between slices are taken out before domains are found: harmony, "
            "center, none, or auto, which changes only slices that lie apart. X_stofm stays."
        ),
    ] = "auto",
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            help="An .h5ad that an earlier run of the same --model has written: domains get its "
            "names and colours. May be given several times."
        ),
    ] = None,
    label_key: Annotated[
        str | None, typer.Option(help="Column of obs with known regions, to score domains by.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Picture of the domains to write (.png, .pdf, .svg).")
    ] = None,
    seed: options.Seed = 0,
    save_model: Annotated[
        Path | None, typer.Option(help="Folder to save the fitted model in.")
    ] = None,
) -> None:
    """Embed slices and find their spatial domains.

    Writes obsm["X_stofm"] (n x 256, float32), obs["stofm_domain"] and uns["stofm"] into a copy of
    each file, or into the table of a SpatialData store that is its own output. Domains of several
    slices are found jointly: a domain has one name in all of them.
    """
    from stofm_geo._files import check_folder
    from stofm_geo._names import read_names
    from stofm_geo._validation import listed
    from stofm_geo.data import prepare_for_writing
    from stofm_geo.data.io import output_targets

    if integrate != "auto":
        from stofm_geo.tasks.integration import check_method

        check_method("--integrate", integrate)
    if zero_shot:
        if model or encoder or use_rep:
            raise ValueError(
                f"--zero-shot is --model {_MINI} on counts; leave --model, --encoder and "
                "--use-rep out"
            )
        model = _MINI
    if label_key == Keys.DOMAIN:
        raise ValueError(
            f"--label-key is {label_key!r}, where the domains are written: they would be scored by "
            "themselves; rename the column that has the labels"
        )
    if reference and (model is None or n_domains is not None):
        raise ValueError(
            "--reference has its model and its number of domains; give that --model, and leave "
            "--n-domains out"
        )
    targets = output_targets(slices, output, table=table)
    if plot is not None:
        from stofm_geo.pl import check_picture

        check_picture(plot)
    if vocabulary is not None and not (model or "").startswith(_OFFICIAL):
        raise ValueError(f"a vocabulary goes with --model {_OFFICIAL}DIR alone; leave it out")
    if encoder is not None and (model or use_rep):
        raise ValueError("an encoder is for fitting to counts; leave --model and --use-rep out")
    if save_model is not None:
        if model is not None:
            raise ValueError("--save-model is for a model that is fitted; leave one of both out")
        check_folder(save_model, None, make=True)
    known = list(read_tables(reference or [], None, None, spatial_key=spatial_key))
    adatas = []
    tables = read_tables(slices, table, coordinate_system, spatial_key=spatial_key)
    for path, adata in zip(slices, tables, strict=True):
        if label_key is not None and label_key not in adata.obs:
            raise KeyError(f"{path}: obs has no {label_key!r} (labels); it has {listed(adata.obs)}")
        if label_key is not None and not read_names(adata.obs[label_key]).astype(bool).any():
            raise ValueError(f"{path}: obs[{label_key!r}] has no labels; leave --label-key out")
        if n_domains is not None and n_domains > adata.n_obs:
            raise ValueError(f"{path}: {n_domains} domains were requested of {adata.n_obs} cells")
        prepare_for_writing(adata, str(path))
        adatas.append(adata)
    names = [str(path) for path in slices]
    _run(
        adatas,
        names,
        model=model,
        vocabulary=vocabulary,
        slice_key=slice_key,
        spatial_key=spatial_key,
        use_rep=use_rep,
        encoder=encoder,
        n_domains=n_domains,
        integrate=integrate,
        reference=known or None,
        seed=seed,
        save_model=save_model,
    )
    keys: SpatialKeys = {"spatial_key": spatial_key, "slice_key": slice_key}
    _report(adatas, names, label_key=label_key, plot=plot, **keys)
    write_tables(adatas, targets)


@cli_errors
def demo(
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for tissue.h5ad and tissue.png.")
    ] = Path("stofm-geo-demo"),
    seed: options.Seed = 0,
) -> None:
    """Embed a toy tissue and compare its spatial domains with the known regions."""
    from stofm_geo._files import check_writable
    from stofm_geo.data.io import Target
    from stofm_geo.datasets import toy_tissue

    check_writable(output / "tissue.h5ad", make=True)
    adata = toy_tissue(seed=seed)
    regions = adata.obs["region"].nunique()
    echo(f"Toy tissue: {adata.n_obs} cells, {adata.n_vars} genes, {regions} known regions")
    _run([adata], ["toy tissue"], n_domains=regions, seed=seed)
    output.mkdir(parents=True, exist_ok=True)
    _report([adata], ["toy tissue"], label_key="region", plot=output / "tissue.png")
    write_tables([adata], [Target(output / "tissue.h5ad")])


def _run(
    adatas: list[AnnData],
    names: list[str],
    *,
    model: str | None = None,
    vocabulary: Path | None = None,
    slice_key: str | None = None,
    spatial_key: str = Keys.SPATIAL,
    use_rep: str | None = None,
    encoder: str | None = None,
    n_domains: int | None = None,
    integrate: str = "auto",
    reference: list[AnnData] | None = None,
    seed: int = 0,
    save_model: Path | None = None,
) -> None:
    """Fit or load, embed, find domains; writes into ``adatas``."""
    from stofm_geo import SToFM, tl
    from stofm_geo.tasks.integration import describe

    start = time.perf_counter()
    keys: SpatialKeys = {"spatial_key": spatial_key, "slice_key": slice_key}
    if model is None:
        settings = {"encoder": encoder or "pca", "organism": "auto" if encoder == "panel" else None}
        fitted = SToFM(**settings)
        tissues = [
            fitted.prepare(adata, use_rep=use_rep, name=name, **keys)
            for adata, name in zip(adatas, names, strict=True)
        ]
        fitted.fit(tissues, seed=seed)
        record = fitted.training_record
        echo(
            f"Fitted to {record['cells']} cells in {record['slices']} slices, "
            f"{record['steps']} steps, {time.perf_counter() - start:.0f} s: "
            f"niche loss {record['niche_loss']:.3f} "
            f"(neighbour averages alone: {record['niche_loss_of_averages']:.3f}), "
            f"distance loss {record['distance_loss']:.3f} "
            f"(believing what is seen: {record['distance_loss_as_seen']:.3f})"
        )
        if save_model is not None:
            fitted.save_pretrained(save_model)
            echo(f"Wrote {save_model}")
        embed = fitted.embed
    elif model.startswith(_OFFICIAL):
        published = SToFM.from_official(model.removeprefix(_OFFICIAL), vocabulary=vocabulary)
        published.check_features(use_rep)
        embed = partial(published.embed, use_rep=use_rep)
    else:
        fitted = SToFM.from_pretrained(model)
        fitted.check_features(use_rep)
        embed = fitted.embed
    start = time.perf_counter()
    if model is None:
        for tissue in tissues:
            embed(tissue)
    else:
        for adata, name in zip(adatas, names, strict=True):
            embed(adata, name=name, **keys)
    cells = sum(adata.n_obs for adata in adatas)
    echo(f"Embedded {cells} cells in {time.perf_counter() - start:.0f} s")
    start = time.perf_counter()
    method = cast("Method", integrate)
    tl.domains(adatas, n_domains, integrate=method, reference=reference, seed=seed, **keys)
    found = {name for adata in adatas for name in adata.obs[Keys.DOMAIN].dropna()}
    of = f" of the {len(adatas[0].obs[Keys.DOMAIN].cat.categories)} known" if reference else ""
    jointly = describe(adatas[0].uns[f"{Keys.DOMAIN}_slices"])
    echo(f"Found {len(found)} domains{of}{jointly} in {time.perf_counter() - start:.0f} s")


def _report(
    adatas: list[AnnData],
    names: list[str],
    *,
    slice_key: str | None = None,
    spatial_key: str = Keys.SPATIAL,
    label_key: str | None = None,
    plot: Path | None = None,
) -> None:
    """Print scores, write pictures."""
    if label_key is None and plot is None:
        return  # and leave out the imports
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    from stofm_geo import pl
    from stofm_geo._names import read_names
    from stofm_geo.pl.domains import share_colors

    if label_key is not None and plot is not None:
        share_colors(adatas, Keys.DOMAIN, label_key)  # one map for all pictures
    for adata, name in zip(adatas, names, strict=True):
        if label_key is not None:
            labels = read_names(adata.obs[label_key], f"{name}: obs[{label_key!r}]")
            known = labels.astype(bool)
            pair = labels[known].astype(str), adata.obs[Keys.DOMAIN][known]
            echo(
                f"{name}: ARI {adjusted_rand_score(*pair):.3f}, "
                f"NMI {normalized_mutual_info_score(*pair):.3f} "
                f"against {label_key!r} of {int(known.sum())} cells"
            )
        if plot is not None:
            picture = plot
            if len(adatas) > 1:
                picture = plot.with_name(f"{plot.stem}-{Path(name).stem}{plot.suffix}")
            pl.domains(
                adata,
                label_key=label_key,
                spatial_key=spatial_key,
                slice_key=slice_key,
                save=picture,
            )
            echo(f"Wrote {picture}")
