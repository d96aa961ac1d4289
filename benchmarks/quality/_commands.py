"""Every command that writes, on toy tissue: what it is given, what it leaves, and where it is when.

Work is made small by fewer cells and steps alone; all else is as users type it.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

STEPS, CELLS, GENES = 4, 240, 40
_TINY = {"hidden_channels": 16, "heads": 2, "num_layers": 1, "out_channels": 24}
_ENCODER = ("--hidden-size=8", "--layers=1", "--heads=1", "--max-length=16")


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Args:
        words: What is typed, given the folder of inputs, that of outputs, and whether it is the
            second time, which replaces what the first has left.
        units: What it writes, and the digest of each, which reads all of it.
        stages: Functions, ``module:name``, in which it is at ``reading`` and ``fitting``.
        trains: It goes on from states of training; the first time it is stopped in its first
            step.
    """

    words: Callable[[Path, Path, bool], list[str]]
    units: dict[str, Callable[[Path], str]]
    stages: dict[str, str]
    trains: bool = False


def make_inputs(folder: Path) -> None:
    """Slices, a vocabulary, a fine-tuned model and a corpus."""
    from stofm_geo import datasets
    from stofm_geo.cli import app
    from stofm_geo.genes import Vocabulary

    make_small()
    folder.mkdir(parents=True)
    for name, seed in (("a", 0), ("b", 1)):
        adata = datasets.toy_tissue(seed=seed)
        adata.var_names = [f"ENSG{i:011d}" for i in range(adata.n_vars)]
        adata.write_h5ad(folder / f"{name}.h5ad")
    Vocabulary.from_corpus([adata]).to_json(folder / "words.json")
    for name in ("finetune", "corpus build"):
        app(COMMANDS[name].words(folder, folder, True), standalone_mode=False)


def make_small() -> None:
    """Fewer cells and steps, in this process."""
    from stofm_geo import SToFM, datasets

    fit, toy_tissue = SToFM.fit, datasets.toy_tissue
    SToFM.fit = lambda *a, **k: fit(*a, **k | {"max_steps": STEPS})
    datasets.toy_tissue = lambda *a, **k: toy_tissue(*(a or (CELLS, GENES)), **k)


def import_all() -> None:
    """What any command imports; in a process that only forks, so that it starts no threads."""
    for name in (
        "lightning.pytorch.cli",
        "lightning.pytorch.loggers",
        "matplotlib.pyplot",
        "sklearn.metrics",
        "tensorboard",
        "transformers.models.bert.modeling_bert",
        *("stofm_geo.cli", "stofm_geo.tl", "stofm_geo.pl", "stofm_geo.data.corpus"),
        *(
            "stofm_geo.training.trainer",
            "stofm_geo.training.adapt_encoder",
            "stofm_geo.training.finetune",
        ),
        "stofm_geo.training.corpus_pretrain",
    ):
        import_module(name)


def state(command: Command, out: Path) -> dict[str, str]:
    """Digests of what is there; ``absent``, or ``damaged`` and why."""
    found = {}
    for name, digest in command.units.items():
        if not (out / name).exists():
            found[name] = "absent"
            continue
        try:
            found[name] = digest(out / name)
        except Exception as error:  # of any library that reads
            found[name] = f"damaged: {type(error).__name__}: {error}"[:300]
    return found


def leftovers(out: Path) -> list[str]:
    """Names of what is made beside its place and was not removed."""
    return sorted(str(found.relative_to(out)) for found in out.rglob(".stofm-geo-*"))


def _of(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def _table(file: Path) -> str:
    from anndata import read_h5ad

    adata = read_h5ad(file)
    arrays = [adata.obsm[key].tobytes() for key in sorted(adata.obsm)]
    return _of(adata.obs.to_csv().encode(), adata.X.data.tobytes(), *arrays)


def _bytes(file: Path) -> str:
    return _of(file.read_bytes())


def _picture(file: Path) -> str:
    from PIL import Image

    with Image.open(file) as image:
        return _of(image.convert("RGB").tobytes())


def _model(folder: Path) -> str:
    from stofm_geo import SToFM

    SToFM.from_pretrained(folder)
    return _bytes(folder / "model.safetensors")


def _annotator(folder: Path) -> str:
    from stofm_geo.tasks import Annotator

    Annotator.load(folder)
    return _bytes(folder / "model.safetensors")


def _encoder(folder: Path) -> str:
    from stofm_geo.genes import RankEncoder, Vocabulary

    RankEncoder.from_folder(folder, Vocabulary.read(folder))
    weights = folder / "cell_bert" / "model.safetensors"
    return _of(weights.read_bytes(), (folder / "vocabulary.json").read_bytes())


def _corpus(folder: Path) -> str:
    from stofm_geo.data.corpus import read_index, verify

    slices = read_index(folder)["slices"]
    if wrong := verify(folder):
        raise ValueError("; ".join(wrong))
    return _of(*(one["sha256"].encode() for one in slices))


def _checkpoint(file: Path) -> str:
    import torch

    from stofm_geo._hash import weights_hash

    return weights_hash(torch.load(file, weights_only=True)["state_dict"])[:16]


def _embed(inputs: Path, out: Path, again: bool) -> list[str]:
    words = ["embed", str(inputs / "a.h5ad"), "-o", str(out / "a.h5ad"), "--n-domains=3"]
    words += ["--plot", str(out / "a.png"), "--save-model", str(out / "model")]
    return [*words, f"--seed={int(again)}"]


def _corpus_build(inputs: Path, out: Path, again: bool) -> list[str]:
    words = ["corpus", "build", str(inputs / "a.h5ad"), *[str(inputs / "b.h5ad")] * again]
    return [*words, "-o", str(out / "corpus"), "--organism=none", "--n-components=6"]


def _pretrain(inputs: Path, out: Path, again: bool) -> list[str]:
    return [
        "pretrain",
        f"--data.folder={inputs / 'corpus'}",
        "--data.node_budget=400",
        "--data.held_out=0.5",
        "--trainer.val_check_interval=2",
        "--trainer.check_val_every_n_epoch=null",
        f"--folder={out / 'run'}",
        "--checkpoint_every=1",
        f"--trainer.max_steps={STEPS}",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--model.config.organism=null",
        "--model.config.n_components=6",
        *(f"--model.config.{name}={value}" for name, value in _TINY.items()),
    ]


def _with_model(name: str, inputs: Path, out: Path, again: bool) -> list[str]:
    words = [name, str(inputs / f"{'b' if again else 'a'}.h5ad"), "--model", str(inputs / "model")]
    if name == "evaluate":
        return [*words, "--label-key=region", "-o", str(out / "scores.json")]
    return [*words, "-o", str(out / "a.h5ad")]


def _seeded(name: str, *words: str, to: str = "", inputs: Path, out: Path, again: bool) -> list:
    given = [word.format(inputs=inputs) for word in words]
    return [name, *given, "-o", str(out / to), f"--seed={int(again)}"]


def _with_seed(name: str, *words: str, to: str = "") -> Callable[[Path, Path, bool], list[str]]:
    made = partial(_seeded, name, *words, to=to)
    return lambda inputs, out, again: made(inputs=inputs, out=out, again=again)


_STEP = "stofm_geo.training.pretrain:Pretraining.training_step"
_READ = "stofm_geo.data:read"
_ANNOTATOR = "stofm_geo.tasks.annotation.annotator:Annotator"
COMMANDS = {
    "demo": Command(
        _with_seed("demo"),
        {"tissue.h5ad": _table, "tissue.png": _picture},
        {"reading": "stofm_geo.datasets:toy_tissue", "fitting": _STEP},
    ),
    "embed": Command(
        _embed,
        {"a.h5ad": _table, "a.png": _picture, "model": _model},
        {"reading": _READ, "fitting": _STEP},
    ),
    "finetune": Command(
        _with_seed(
            "finetune", "{inputs}/a.h5ad", "--task=region", "--label-key=region", to="model"
        ),
        {"model": _annotator},
        {"reading": _READ, "fitting": _STEP},
    ),
    "predict": Command(
        partial(_with_model, "predict"),
        {"a.h5ad": _table},
        {"reading": _READ, "fitting": f"{_ANNOTATOR}.predict"},
    ),
    "evaluate": Command(
        partial(_with_model, "evaluate"),
        {"scores.json": _bytes},
        {"reading": _READ, "fitting": f"{_ANNOTATOR}.evaluate"},
    ),
    "adapt": Command(
        _with_seed(
            *("adapt", "{inputs}/a.h5ad", "--vocabulary={inputs}/words.json", *_ENCODER),
            f"--max-steps={STEPS}",
            to="encoder",
        ),
        {"encoder": _encoder},
        {
            "reading": _READ,
            "fitting": "stofm_geo.training.adaptation:Adaptation.training_step",
        },
    ),
    "corpus build": Command(
        _corpus_build,
        {"corpus": _corpus},
        {
            "reading": "stofm_geo.data.corpus.build:read_slice",
            "fitting": "stofm_geo.data.corpus.build:write_slice",
        },
    ),
    "pretrain": Command(
        _pretrain,
        {"run/checkpoints/last.ckpt": _checkpoint, "run/model": _model},
        {
            "reading": "stofm_geo.training.corpus_data:CorpusDataModule.setup",
            "fitting": _STEP,
        },
        trains=True,
    ),
}


def typed(words: list[str]) -> None:
    """Run a command line in this process, small, as ``python -m stofm_geo`` does."""
    from stofm_geo.__main__ import main

    make_small()
    sys.argv = ["stofm-geo", *words]
    main()
