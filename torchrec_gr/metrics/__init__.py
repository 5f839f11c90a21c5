"""Exact metrics of a click-through-rate model, and how sure one can be of a difference.

Every function takes one-dimensional numpy arrays or torch tensors, computes in float64 and knows
nothing of processes: gather the predictions of all ranks first, then call it once.
"""

from torchrec_gr.metrics.auc import auc
from torchrec_gr.metrics.bootstrap import PairedDifference, paired_bootstrap, resampled_aucs
from torchrec_gr.metrics.calibration import calibration
from torchrec_gr.metrics.gauc import GroupedAUC, gauc
from torchrec_gr.metrics.log_loss import log_loss, normalized_entropy
from torchrec_gr.metrics.ranking import hit_rate, ndcg
from torchrec_gr.metrics.welch import welch_half_width

__all__ = [
    "GroupedAUC",
    "PairedDifference",
    "auc",
    "calibration",
    "gauc",
    "hit_rate",
    "log_loss",
    "ndcg",
    "normalized_entropy",
    "paired_bootstrap",
    "resampled_aucs",
    "welch_half_width",
]
