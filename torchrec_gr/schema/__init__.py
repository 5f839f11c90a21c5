"""What a log's columns mean and which rows its ids have."""

from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, SchemaError, Table
from torchrec_gr.schema.vocabulary import OUT_OF_VOCABULARY, Vocabulary, VocabularyBuilder

__all__ = [
    "OUT_OF_VOCABULARY",
    "Feature",
    "FeatureSchema",
    "SchemaError",
    "Table",
    "Vocabulary",
    "VocabularyBuilder",
]
