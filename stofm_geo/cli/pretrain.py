"""``stofm-geo pretrain``: Lightning's command line on a corpus."""

from __future__ import annotations

from pathlib import Path

import typer

from stofm_geo._logging import suppress_logger
from stofm_geo._signals import defer_signals
from stofm_geo.cli.output import cli_errors, echo


@cli_errors
def pretrain(ctx: typer.Context) -> None:
    """Pre-train on a corpus: --config pretrain.yaml, and any setting of it, --help for all.

    Writes checkpoints, logs and the best model so far. Started again with the same folder it goes
    on from the last checkpoint; SIGINT and SIGTERM write one more. Needs the extra pretrain.
    """
    from stofm_geo._files import explain_full_disk
    from stofm_geo.training.command import LAST, command

    with suppress_logger("lightning.pytorch"):
        cli = command(ctx.args)
        folder = Path(cli.trainer.default_root_dir)
        last = folder / "checkpoints" / LAST
        if last.is_file():
            echo(f"Going on from {last}")
            cli.trainer.ckpt_path = last  # known earlier than an argument of fit(): no warm start
        with explain_full_disk(folder), defer_signals():  # logs, too; see StopOnSignal
            cli.trainer.fit(cli.model, datamodule=cli.datamodule, weights_only=True)
        if cli.trainer.is_global_zero:
            echo(f"Wrote {folder}")
