"""Data with known answers, for examples, tests and benchmarks."""

from stofm_geo.datasets.particles import charged_particles
from stofm_geo.datasets.rotation import rotate_graphs
from stofm_geo.datasets.stars import toy_stars
from stofm_geo.datasets.superpixels import read_mnist, small_digits, superpixel_graphs
from stofm_geo.datasets.tissue import toy_tissue

__all__ = [
    "charged_particles",
    "read_mnist",
    "rotate_graphs",
    "small_digits",
    "superpixel_graphs",
    "toy_stars",
    "toy_tissue",
]
