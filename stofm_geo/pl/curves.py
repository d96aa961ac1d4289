"""Training curves: training and validation losses over the steps."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

from stofm_geo.pl._sheet import check_picture, plain_axes, write

_TRAINING, _HELD_OUT, _PLAIN = "#56B4E9", "#D55E00", "0.35"


def curves(
    log: str | os.PathLike[str],
    *,
    title: str | None = None,
    save: str | os.PathLike[str] | None = None,
) -> np.ndarray:
    """Draw the losses of ``stofm-geo pretrain`` over the steps, one panel per loss.

    Each panel has the training loss, the validation loss and the validation loss of a baseline.

    Args:
        log: Folder written by ``stofm-geo pretrain``, or a CSV file of Lightning. Resumed runs in a
            folder are joined.
        title: Heading; None: no heading.
        save: As in :func:`spatial`.

    Returns:
        Array of Axes, ``[n_losses]``, sorted by name.

    Raises:
        FileNotFoundError: ``log`` does not exist or has no ``metrics.csv``, or the folder of
            ``save`` does not exist.
        ValueError: The log has no steps or no losses, or the extension of ``save`` is unknown.

    Examples:
        >>> import tempfile
        >>> import pandas as pd
        >>> from stofm_geo import pl
        >>> with tempfile.TemporaryDirectory() as folder:  # here a log of two steps
        ...     log = pd.DataFrame({"step": [0, 9], "niche_loss": [1.0, 0.5]})
        ...     log.to_csv(f"{folder}/metrics.csv")
        ...     axes = pl.curves(folder)
        >>> [ax.get_title() for ax in axes]
        ['niche loss']
    """
    path = None if save is None else check_picture(save)
    table = _read(Path(log))
    names = sorted({name.removeprefix("val/") for name in table if name.endswith("_loss")})
    if "step" not in table or not names:
        raise ValueError(f"{log}: is not a training log: it has no column step, or none *_loss")
    axes = plain_axes(4.2, 3.4, len(names))
    for ax, name in zip(axes, names, strict=True):
        for column, label, style in (
            (name, "training", {"color": _TRAINING, "lw": 1.2}),
            (f"val/{name}", "held out", {"color": _HELD_OUT, "lw": 1.8, "marker": "o", "ms": 4}),
            (f"val/{name}_plain", "held out, baseline", {"color": _PLAIN, "ls": "--"}),
        ):
            if column in table and (logged := table[column].notna()).any():
                # Logged steps are indices from 0.
                ax.plot(table["step"][logged] + 1, table[column][logged], label=label, **style)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("steps", size=9)
        ax.set_title(name.replace("_", " "), size=11)
        ax.legend(frameon=False, fontsize=8)
    if title is not None:
        axes[0].figure.suptitle(title, size=13, weight="bold")
    write(axes[0], path)
    return axes


def _read(log: Path) -> pd.DataFrame:
    """Return the rows of all runs; repeated steps are those of the later run."""
    files = [log]
    if log.is_dir():
        # A resumed run writes a new version, sorted by number.
        files = sorted(log.rglob("metrics.csv"), key=lambda file: (len(file.parts), _number(file)))
        if not files:
            raise FileNotFoundError(f"{log}: has no metrics.csv")
    runs: list[pd.DataFrame] = []
    for file in files:
        try:
            run = pd.read_csv(file)
        except pd.errors.EmptyDataError:  # killed before its first row
            continue
        except (pd.errors.ParserError, UnicodeDecodeError) as error:
            raise ValueError(f"{file}: is not a CSV file, and so no training log") from error
        if "step" in run:
            runs = [earlier[earlier["step"] < run["step"].min()] for earlier in runs]
        runs.append(run)
    return pd.concat(runs, ignore_index=True) if runs else pd.DataFrame()


def _number(file: Path) -> int:
    return int("0" + "".join(c for c in file.parent.name if c.isdecimal()))
