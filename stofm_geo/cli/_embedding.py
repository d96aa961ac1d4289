"""Fit a model to files and embed them: one file in memory at a time, each step kept on request."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stofm_geo._keys import Keys
from stofm_geo.cli._stages import Stages
from stofm_geo.cli.output import counted, echo, record

if TYPE_CHECKING:
    from anndata import AnnData

    from stofm_geo.models.prepare import PreparedTissue, SliceKeys
    from stofm_geo.models.stofm import SToFM
    from stofm_geo.networks.state import TrainingRecord

OFFICIAL = "official:"
_FIT_CELLS = 400_000  # from which on a model is fitted to some of the files


class Tables:
    """The cells of files, read when they are asked for; the last ones stay in memory.

    Args:
        paths: Files.
        read: Reads one.
    """

    def __init__(self, paths: Sequence[Path], read: Callable[[Path], AnnData]) -> None:
        self.paths, self.read = paths, read
        self._last: tuple[int, AnnData] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, number: int) -> AnnData:
        if self._last is None or self._last[0] != number:
            self._last = None  # so that two are never there at once
            self._last = number, self.read(self.paths[number])
        return self._last[1]


@dataclass(frozen=True)
class Settings:
    """How files are embedded.

    Attributes:
        keys: Where files have positions, slices and counts.
        model: Name of a model; ``None``: one is fitted to the files.
        vocabulary: Of a published model.
        use_rep: Key in ``obsm`` of precomputed vectors.
        encoder: Name of the encoder to fit.
        max_steps: Training steps at most; ``None``: as :meth:`stofm_geo.SToFM.fit` has them.
        seed: Random seed.
        save_model: Folder for the fitted model.
    """

    keys: SliceKeys
    model: str | None = None
    vocabulary: Path | None = None
    use_rep: str | None = None
    encoder: str | None = None
    max_steps: int | None = None
    seed: int = 0
    save_model: Path | None = None


def embed_tables(
    tables: Tables, settings: Settings, stages: Stages, scheduler: str | None = None
) -> list[AnnData]:
    """Embed files; return the cells of each with obs, positions, embedding and uns, without counts.

    Of several files, counts are in memory of one at a time, beside those that a model is fitted to.

    Args:
        tables: The files.
        settings: How they are embedded.
        stages: What an earlier run has done; what this one does is kept there.
        scheduler: Address of a dask scheduler, whose workers embed what is not kept in ``stages``.
    """
    names = [str(path) for path in tables.paths]
    prepared: dict[int, PreparedTissue] = {}
    if settings.model is None:
        model, prepared = _fitted(tables, names, settings, stages)
        embed: Callable[..., None] = partial(_embed_prepared, model, prepared, settings)
    else:
        embed = _loaded(settings)
    start, cells = time.perf_counter(), 0
    if scheduler is not None:
        _embed_on_cluster(tables, settings, stages, scheduler)
    results = []
    for number, name in enumerate(names):
        adata = tables[number] if number not in prepared else prepared[number].adata
        if not stages.has(number):
            made = _embed_and_keep(embed, number, adata, name, stages)
        else:
            kept = stages.embedded(number)
            made = list(kept.obsm)
            adata.obsm.update({key: kept.obsm[key] for key in made})
            adata.uns[Keys.UNS] = kept.uns[Keys.UNS]
        prepared.pop(number, None)
        results.append(adata if len(names) == 1 else _without_counts(adata, settings, made))
        cells += adata.n_obs
    seconds = time.perf_counter() - start
    record(cells=cells, seconds={"embed": round(seconds, 1)})
    echo(f"Embedded {cells} cells in {seconds:.0f} s")
    return results


def _embed_and_keep(
    embed: Callable[..., None], number: int, adata: AnnData, name: str, stages: Stages
) -> list[str]:
    """Embed a file and keep the result; return the keys of ``obsm`` that were made."""
    before = set(adata.obsm) - {Keys.EMBEDDING}
    embed(number, adata, name)
    made = [key for key in adata.obsm if key not in before]
    stages.keep(number, adata, made)
    return made


def _without_counts(adata: AnnData, settings: Settings, made: Sequence[str]) -> AnnData:
    import anndata

    keys = {settings.keys["spatial_key"], *made} & set(adata.obsm)
    obsm = {key: adata.obsm[key] for key in keys}
    return anndata.AnnData(obs=adata.obs, obsm=obsm, uns=adata.uns)


def add_results(adata: AnnData, result: AnnData) -> None:
    """Add to the cells of a file what was computed of them."""
    if adata is result:
        return
    adata.obs, adata.uns = result.obs, result.uns
    adata.obsm.update({key: result.obsm[key] for key in result.obsm})


def _fitted(
    tables: Tables, names: list[str], settings: Settings, stages: Stages
) -> tuple[SToFM, dict[int, PreparedTissue]]:
    """Return a model, fitted or kept, and the tissues it was fitted to."""
    from stofm_geo import SToFM
    from stofm_geo.networks.files import FILES

    if stages.model is not None and all((stages.model / file).is_file() for file in FILES):
        model = SToFM.from_pretrained(stages.model)
        tissues: dict[int, PreparedTissue] = {}
        echo("Continuing with the model that an earlier run has fitted")
    else:
        model, tissues = _fit(tables, names, settings)
        if stages.model is not None:
            model.save_pretrained(stages.model)
    if settings.save_model is not None:
        model.save_pretrained(settings.save_model)
        echo(f"Wrote {settings.save_model}")
    return model, tissues


def _fit(
    tables: Tables, names: list[str], settings: Settings
) -> tuple[SToFM, dict[int, PreparedTissue]]:
    from stofm_geo import SToFM

    start = time.perf_counter()
    encoder = settings.encoder or "pca"
    model = SToFM(encoder=encoder, organism="auto" if encoder == "panel" else None)
    tissues: dict[int, PreparedTissue] = {}
    cells = 0
    for number in _order(len(tables), settings.seed):
        if cells >= _FIT_CELLS:
            break
        adata = tables[number]
        tissues[number] = model.prepare(
            adata, use_rep=settings.use_rep, name=names[number], **settings.keys
        )
        cells += adata.n_obs
    tissues = dict(sorted(tissues.items()))
    fit = partial(model.fit, [*tissues.values()], seed=settings.seed)
    fit() if settings.max_steps is None else fit(max_steps=settings.max_steps)
    training = model.training_record
    seconds = round(time.perf_counter() - start, 1)
    record(training=training, files_fitted=len(tissues), seconds={"fit": seconds})
    of = "" if len(tissues) == len(tables) else f", {len(tissues)} of the {len(tables)} files"
    echo(
        f"Fitted to {training['cells']} cells in {counted(training['slices'], 'slice')}{of}, "
        f"{training['steps']} steps, {seconds:.0f} s: {_losses(training)}"
    )
    return model, tissues


def _losses(training: TrainingRecord) -> str:
    if "molecule_loss" in training:
        kept = "" if training["best_step"] else "; training was no better, its start is kept"
        return (
            f"loss on held-out molecules {training['molecule_loss']:.3f} "
            f"(linear in neighbour averages: {training['molecule_loss_of_averages']:.3f}, "
            f"mean over cells: {training['molecule_loss_of_mean']:.3f}){kept}"
        )
    return (
        f"niche loss {training['niche_loss']:.3f} "
        f"(neighbour averages alone: {training['niche_loss_of_averages']:.3f}), "
        f"distance loss {training['distance_loss']:.3f} "
        f"(positions as seen: {training['distance_loss_as_seen']:.3f})"
    )


def _order(count: int, seed: int) -> list[int]:
    """Return the order in which files are taken until there are enough cells to fit to."""
    import numpy as np

    return np.random.default_rng(seed).permutation(count).tolist()


def _embed_prepared(
    model: SToFM,
    prepared: dict[int, PreparedTissue],
    settings: Settings,
    number: int,
    adata: AnnData,
    name: str,
) -> None:
    tissue = prepared.get(number)
    model.embed(model.prepare(adata, name=name, **settings.keys) if tissue is None else tissue)


def _loaded(settings: Settings) -> Callable[..., None]:
    """Return what embeds with a model that is there: ``embed(number, adata, name)``."""
    from stofm_geo import SToFM

    assert settings.model is not None
    if settings.model.startswith(OFFICIAL):
        folder = settings.model.removeprefix(OFFICIAL)
        published = SToFM.from_official(folder, vocabulary=settings.vocabulary)
        published.check_features(settings.use_rep)
        embed: Callable[..., None] = partial(
            published.embed,
            use_rep=settings.use_rep,
            spatial_key=settings.keys["spatial_key"],
            slice_key=settings.keys["slice_key"],
        )
    else:
        model = SToFM.from_pretrained(settings.model)
        model.check_features(settings.use_rep)
        embed = partial(model.embed, **settings.keys)
    return lambda number, adata, name: embed(adata, name=name)


@dataclass(frozen=True)
class _Task:
    number: int
    path: Path
    read: Callable[[Path], AnnData]
    settings: Settings
    stages: Stages


def embed_part(tables: Tables, settings: Settings, stages: Stages, part: str) -> None:
    """Embed every n-th file, one of n array jobs; the results are kept in ``stages``.

    Args:
        tables: All files.
        settings: How they are embedded, with a model.
        stages: Where results are kept.
        part: ``"i/n"``.
    """
    from stofm_geo.data.cluster import part_of

    for task in part_of(_tasks(tables, settings, stages), part):
        if not stages.has(task.number):
            _embed_one(task)
            echo(f"{task.path}: embedded")
    echo(f"Part {part} is done; when all parts are, give --resume in place of --part")


def _tasks(tables: Tables, settings: Settings, stages: Stages) -> list[_Task]:
    return [
        _Task(number, path, tables.read, settings, stages)
        for number, path in enumerate(tables.paths)
    ]


def _embed_on_cluster(tables: Tables, settings: Settings, stages: Stages, scheduler: str) -> None:
    """Embed on the workers of a dask scheduler what is not kept yet; it is kept then.

    Raises:
        RuntimeError: A worker died again and again at one file.
    """
    from stofm_geo.data.cluster import each_on_cluster

    if settings.model is None:
        settings = replace(settings, model=str(stages.model))
    tasks = _tasks(tables, settings, stages)
    open_ = [task for task in tasks if not stages.has(task.number)]
    for done, (task, result) in enumerate(each_on_cluster(_embed_one, open_, scheduler), start=1):
        if result is None:
            raise RuntimeError(f"{task.path}: workers died at it; was there too little memory?")
        echo(f"{done}/{len(open_)} {task.path}: embedded")


def _embed_one(task: _Task) -> bool:
    embed, adata = _loaded(task.settings), task.read(task.path)
    _embed_and_keep(embed, task.number, adata, str(task.path), task.stages)
    return True
