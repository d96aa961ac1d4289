"""The package and the command line answer before the libraries beneath are imported."""

from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import stofm_geo
from stofm_geo.datasets import toy_tissue
from stofm_geo.models import SToFM

HEAVY = {
    *("anndata", "huggingface_hub", "igraph", "lightning", "matplotlib", "numba", "numpy"),
    *("pandas", "scipy", "sklearn", "torch", "torch_geometric", "torchmetrics"),
}
TRAINING = {"lightning", "torchmetrics", "stofm_geo.pl"}
RUN = "import sys; from stofm_geo.__main__ import main; sys.argv[1:] = {}; main()"


def _imported(code: str) -> set[str]:
    """Return the names of the modules that a new process has imported at its end."""
    ending = "import atexit, sys; atexit.register(lambda: print('\\n', *sys.modules)); "
    words = [sys.executable, "-c", ending + code]
    run = subprocess.run(words, capture_output=True, text=True, check=True, timeout=120)
    found = set(run.stdout.splitlines()[-1].split())
    assert "stofm_geo" in found
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import stofm_geo; dir(stofm_geo)",
        RUN.format(["--help"]),
        RUN.format(["embed", "--help"]),
        RUN.format(["benchmark", "run", "--help"]),
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    assert not HEAVY & _imported(code)


def test_embedding_without_training_imports_nothing_to_train_or_plot_with(tmp_path: Path) -> None:
    tissue = toy_tissue(100, 60, seed=0)
    tissue.var_names = list(SToFM.from_pretrained("stofm-geo-mini").encoder.genes)[:60]
    tissue.write_h5ad(tmp_path / "tissue.h5ad")
    files = [str(tmp_path / "tissue.h5ad"), "-o", str(tmp_path / "out.h5ad")]
    assert not TRAINING & _imported(RUN.format(["embed", *files, "--zero-shot"]))
    assert (tmp_path / "out.h5ad").is_file()


def test_all_names_are_there_when_asked_for() -> None:
    names: dict[str, object] = {}
    exec("from stofm_geo import *", names)
    assert set(stofm_geo.__all__) <= set(names)
    assert names["SToFM"] is SToFM
    assert stofm_geo.nn.SE2Transformer.__name__ == "SE2Transformer"
    for name in dir(stofm_geo):
        getattr(stofm_geo, name)
    with pytest.raises(AttributeError, match="no attribute 'SToFMs'"):
        _ = stofm_geo.SToFMs


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(inspect.getsource(stofm_geo))
    (guarded,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    seen = {alias.name for line in guarded.body for alias in line.names}
    assert seen == {*stofm_geo._MODULES, *stofm_geo._MEMBERS}
    assert {*stofm_geo.__all__} <= seen | {"__version__"}
