"""Results that must stay as they are while the code around them changes.

``python tests/test_golden.py`` writes ``golden.json`` anew, where they change by rights. Numbers
differ in the last digits from one processor to another, so that digests are compared on the
machine (processor, versions) that they were made on, and numbers everywhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import re
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stofm_geo import SToFM, tl
from stofm_geo.data.cluster import one_thread
from stofm_geo.data.corpus import CorpusDataset, Source, build
from stofm_geo.datasets import toy_tissue
from stofm_geo.tasks import fine_tune
from stofm_geo.training.command import command

FILE = Path(__file__).with_name("golden.json")
SIZES = {"hidden_channels": 16, "heads": 2, "num_layers": 2, "n_components": 6, "out_channels": 32}
# The first steps of Adam are signs of gradients, whatever their size: rounding decides some.
TOLERANCES = {"mlp": (5e-2, 3e-2), "lora": (5e-2, 3e-2)}
CUT = {"k": 6, "max_macro_nodes": 4, "cells_per_subslice": 60, "n_components": 5}


def _fitted(tissue: Any, encoder: str = "pca") -> SToFM:
    return SToFM(**SIZES, encoder=encoder).fit(tissue, max_steps=8, progress=False)


def fit_and_embed(encoder: str) -> dict[str, Any]:
    tissue = toy_tissue(300, 30, seed=0)
    model = _fitted(tissue, encoder)
    model.embed(tissue)
    return {"network": model.network.state_dict(), "X_stofm": tissue.obsm["X_stofm"]}


def shipped_model() -> dict[str, Any]:
    tissue = toy_tissue(200, 60, seed=0)
    model = SToFM.from_pretrained("stofm-geo-mini")
    tissue.var_names = list(model.encoder.genes)[:60]
    model.embed(tissue)
    return {"network": model.network.state_dict(), "X_stofm": tissue.obsm["X_stofm"]}


def tasks() -> dict[str, Any]:
    tissue, other = toy_tissue(300, 30, seed=0), toy_tissue(200, 30, seed=1)
    model = _fitted(tissue)
    model.embed(tissue)
    tl.domains(tissue, 5)
    found = {"domains": tissue.obs["stofm_domain"].cat.codes.to_numpy()}
    for method in ("probe", "mlp", "lora"):
        options = {} if method == "probe" else {"max_steps": 4}
        learned = fine_tune(model, tissue, "region", method, progress=False, **options)
        found[method] = learned.probabilities(other)
    tl.deconvolve(other, tissue, "cell_type")
    found["deconvolution"] = np.asarray(other.obsm["stofm_proportions"])
    return found


def pretraining() -> dict[str, Any]:
    # What is drawn for a slice depends on the name of its file.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        corpus, run = Path("corpus"), Path("run")
        toy_tissue(480, 30, n_slices=4, seed=0).write_h5ad("tissue.h5ad")
        source = Source("tissue.h5ad", slice="slice_id", organism="none")
        assert build([source], corpus, **CUT) == []
        sizes = {**SIZES, **CUT, "encoder": "panel", "organism": "null"}
        cli = command(
            [
                f"--folder={run}",
                f"--data.folder={corpus}",
                "--data.node_budget=200",
                "--data.held_out=0.25",
                "--trainer.accelerator=cpu",
                "--trainer.max_steps=4",
                "--trainer.enable_progress_bar=false",
                *(f"--model.config.{name}={value}" for name, value in sizes.items()),
            ]
        )
        cli.trainer.fit(cli.model, datamodule=cli.datamodule)
        subslices = CorpusDataset(corpus)
        stored = {
            f"{number}.{key}": value.to_dense() if value.layout != torch.strided else value
            for number, subslice in enumerate(subslices)
            for key, value in sorted(subslice)
            if isinstance(value, torch.Tensor)
        }
        return {"network": cli.model.network.state_dict(), "corpus": stored}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "pca": lambda: fit_and_embed("pca"),
    "panel": lambda: fit_and_embed("panel"),
    "shipped": shipped_model,
    "tasks": tasks,
    "pretraining": pretraining,
}


def machine() -> str:
    """Name what the last digits depend on."""
    file = Path("/proc/cpuinfo")
    text = file.read_text() if file.is_file() else ""
    # Virtual machines give the same name to processors of several generations.
    keys = ("model name", "cpu family", "model")
    lines = (re.search(rf"^{key}\s*: (.*)", text, re.MULTILINE) for key in keys)
    named = " ".join(line[1] for line in lines if line)
    packages = ("torch", "numpy", "scipy", "scikit-learn", "numba", "igraph", "anndata")
    return ", ".join(
        [
            named or platform.processor(),
            torch.backends.cpu.get_cpu_capability(),
            f"Python {platform.python_version()}",
            *(f"{name} {version(name)}" for name in packages),
        ]
    )


def summary(value: Any) -> dict[str, Any]:
    """Return the digest and some numbers of an array, or of all tensors of a state dict."""
    digest = hashlib.sha256()
    arrays = value if isinstance(value, Mapping) else {"": torch.as_tensor(value)}
    for name, array in arrays.items():
        digest.update(f"{name}{tuple(array.shape)}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array.numpy()).tobytes())
    flat = torch.cat([array.double().flatten() for array in arrays.values()])
    some = flat[torch.linspace(0, len(flat) - 1, 12).long()]
    numbers = [*some, flat.mean(), flat.std()]
    shapes = hashlib.sha256(repr([(n, tuple(a.shape)) for n, a in arrays.items()]).encode())
    return {
        "sha256": digest.hexdigest(),
        "shapes_sha256": shapes.hexdigest(),
        "numbers": [float(f"{float(number):.6g}") for number in numbers],
    }


def measured(case: str) -> dict[str, Any]:
    with one_thread():
        return {name: summary(value) for name, value in CASES[case]().items()}


@pytest.mark.parametrize("case", CASES)
def test_results_are_those_of_before(case) -> None:
    golden = json.loads(FILE.read_text())
    expected, found = golden["cases"][case], measured(case)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        assert value["shapes_sha256"] == expected[name]["shapes_sha256"], name
        rtol, atol = TOLERANCES.get(name, (1e-2, 1e-3))
        np.testing.assert_allclose(
            value["numbers"], expected[name]["numbers"], rtol, atol, err_msg=name
        )
        if machine() == golden["machine"]:
            assert value["sha256"] == expected[name]["sha256"], name


if __name__ == "__main__":
    made = {"machine": machine(), "cases": {case: measured(case) for case in CASES}}
    FILE.write_text(json.dumps(made, indent=1) + "\n")
