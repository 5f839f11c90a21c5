"""What a table is: dynamic tables for unbounded ids, multi-hash tables, quantised tables."""

from torchrec_gr.embeddings.collision_statistics import collision_statistics
from torchrec_gr.embeddings.dynamic_collections import (
    DynamicEmbeddingBagCollection,
    DynamicEmbeddingCollection,
)
from torchrec_gr.embeddings.dynamic_config import (
    DynamicEmbeddingBagConfig,
    DynamicEmbeddingConfig,
)
from torchrec_gr.embeddings.dynamic_sharding import (
    DynamicEmbeddingBagSharder,
    DynamicEmbeddingSharder,
)
from torchrec_gr.embeddings.dynamic_table import dynamic_tables
from torchrec_gr.embeddings.multi_hash import (
    MultiHashEmbeddingBagCollection,
    MultiHashEmbeddingCollection,
)
from torchrec_gr.embeddings.multi_hash_config import (
    MultiHashEmbeddingBagConfig,
    MultiHashEmbeddingConfig,
)
from torchrec_gr.embeddings.quantised import quantise
from torchrec_gr.embeddings.table_report import describe, table_reports

__all__ = [
    "DynamicEmbeddingBagCollection",
    "DynamicEmbeddingBagConfig",
    "DynamicEmbeddingBagSharder",
    "DynamicEmbeddingCollection",
    "DynamicEmbeddingConfig",
    "DynamicEmbeddingSharder",
    "MultiHashEmbeddingBagCollection",
    "MultiHashEmbeddingBagConfig",
    "MultiHashEmbeddingCollection",
    "MultiHashEmbeddingConfig",
    "collision_statistics",
    "describe",
    "dynamic_tables",
    "quantise",
    "table_reports",
]
