"""``stofm-geo``: the command line."""

from __future__ import annotations

import typer

from stofm_geo.cli.adapt import adapt
from stofm_geo.cli.benchmark import benchmark
from stofm_geo.cli.corpus import corpus
from stofm_geo.cli.doctor import doctor
from stofm_geo.cli.embed import demo, embed
from stofm_geo.cli.pretrain import pretrain
from stofm_geo.cli.spatial import deconvolve, denoise, domains, impute
from stofm_geo.cli.tasks import evaluate, finetune, predict

app = typer.Typer(
    help="SToFM: embeddings and spatial domains of tissue slices.",
    epilog="Exit codes: 0; 1 after an error, which is one line on standard error; 2 for a wrong "
    "command line; 128 + n after signal n.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_TASKS = (domains, finetune, predict, evaluate, deconvolve, impute, denoise)
for command in (embed, *_TASKS, adapt, demo, doctor):
    app.command()(command)
# Lightning parses all options of pretrain, --help included.
app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(pretrain)
app.add_typer(corpus, name="corpus")
app.add_typer(benchmark, name="benchmark")
