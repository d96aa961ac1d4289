"""What a command has done so far, on disk, so that a killed run goes on from there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stofm_geo.cli.output import echo

if TYPE_CHECKING:
    from anndata import AnnData

_RUN, _MODEL = "run.json", "model"


class Stages:
    """A folder beside the output with a fitted model and the embeddings of each file.

    It is cleared where it is of other files or options, and removed when the command is done.

    Args:
        folder: Made if it is not there; ``None``: nothing is kept.
        sources: Files of the run; a file that has changed since is another.
        options: What results depend on.
    """

    def __init__(
        self, folder: Path | None, sources: Sequence[Path], options: dict[str, Any]
    ) -> None:
        self.folder = folder
        if folder is None:
            return
        from stofm_geo._files import stamp_of

        stamps = [(source.resolve(), *stamp_of(source)) for source in sources]
        run = json.loads(json.dumps({"sources": stamps, "options": options}, default=str))
        if (folder / _RUN).exists() and not _is_of(folder, run):
            echo(f"{folder} is of other files or options; starting from the beginning")
            shutil.rmtree(folder)
        if not (folder / _RUN).exists():
            folder.mkdir(parents=True, exist_ok=True)  # array jobs may do so at the same time
            self._write(_RUN, lambda path: path.write_text(json.dumps(run, indent=1)))

    @property
    def model(self) -> Path | None:
        """Where the fitted model is kept."""
        return None if self.folder is None else self.folder / _MODEL

    def has(self, number: int) -> bool:
        """Return whether the embeddings of a file are kept."""
        return self.folder is not None and (self.folder / _name(number)).is_file()

    def embedded(self, number: int) -> AnnData:
        """Return what :meth:`keep` has kept of a file."""
        import anndata

        assert self.folder is not None
        return anndata.read_h5ad(self.folder / _name(number))

    def keep(self, number: int, adata: AnnData, keys: Sequence[str]) -> None:
        """Keep these keys of ``obsm``, and ``uns["stofm"]``, of a file."""
        import anndata
        import pandas as pd

        from stofm_geo._keys import Keys

        if self.folder is None:
            return
        kept = anndata.AnnData(
            obs=pd.DataFrame(index=adata.obs_names),
            obsm={key: adata.obsm[key] for key in keys},
            uns={Keys.UNS: adata.uns[Keys.UNS]},
        )
        self._write(_name(number), kept.write_h5ad)

    def remove(self) -> None:
        """Remove the folder."""
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, name: str, write: Any) -> None:
        from stofm_geo._files import atomic_path

        assert self.folder is not None
        with atomic_path(self.folder / name) as temporary:
            write(temporary)


def _name(number: int) -> str:
    return f"{number:05d}.h5ad"


def _is_of(folder: Path, run: dict[str, Any]) -> bool:
    try:
        return json.loads((folder / _RUN).read_text()) == run
    except (OSError, ValueError):
        return False
