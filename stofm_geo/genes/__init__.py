"""Encoders of cells: from counts to one feature vector per cell."""

from stofm_geo.genes.counts import as_counts
from stofm_geo.genes.encoders import CellFeatures, CountsEncoder, register_encoder
from stofm_geo.genes.gene_table import GeneTable
from stofm_geo.genes.harmonize import harmonize
from stofm_geo.genes.identifiers import ensembl_ids
from stofm_geo.genes.matching import GeneMatch, match_genes
from stofm_geo.genes.obsm_encoder import ObsmFeatures
from stofm_geo.genes.panel_encoder import PanelEncoder
from stofm_geo.genes.pca_encoder import PCAFeatures
from stofm_geo.genes.rank_encoder import RankEncoder
from stofm_geo.genes.shared import counts_of_genes, shared_genes
from stofm_geo.genes.tokens import rank_tokens, token_blocks
from stofm_geo.genes.vocabulary import Vocabulary

__all__ = [
    "CellFeatures",
    "CountsEncoder",
    "GeneMatch",
    "GeneTable",
    "ObsmFeatures",
    "PCAFeatures",
    "PanelEncoder",
    "RankEncoder",
    "Vocabulary",
    "as_counts",
    "counts_of_genes",
    "ensembl_ids",
    "harmonize",
    "match_genes",
    "rank_tokens",
    "register_encoder",
    "shared_genes",
    "token_blocks",
]
