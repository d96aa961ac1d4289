"""The benchmark suite: tasks, data sets and models by name, and one's own beside them.

Example:
    >>> from stofm_geo import benchmarks
    >>> benchmarks.register_model("mine", layer=MyLayer)  # MyLayer(width)(x, edge_index, pos)
    >>> benchmarks.run("results", tasks=["regions"], models=["PCA", "GATv2", "mine"], seeds=1)
    >>> benchmarks.report("results")
"""

from stofm_geo.benchmarks.datasets import DATASETS, Dataset, register_dataset
from stofm_geo.benchmarks.models import MODELS, Model, register_model
from stofm_geo.benchmarks.problems import Case, Problem, check_apart, leaks
from stofm_geo.benchmarks.reporting import report
from stofm_geo.benchmarks.running import rerun, run
from stofm_geo.benchmarks.tasks import TASKS, Task, register_task

__all__ = [
    "DATASETS",
    "MODELS",
    "TASKS",
    "Case",
    "Dataset",
    "Model",
    "Problem",
    "Task",
    "check_apart",
    "leaks",
    "register_dataset",
    "register_model",
    "register_task",
    "report",
    "rerun",
    "run",
]
