"""The report's last parts: how to have it again, and how to read it."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.reports import tables
from pipelines.reports.document import Block, Bullets, Code, Folded, Heading, Paragraph
from pipelines.results.artifacts import RunInfo
from pipelines.results.summary import SMALLEST_DIFFERENCE


def how_to_reproduce(info: RunInfo) -> Iterator[Block]:
    """The section with the command, the commit, the settings, the versions and the machine."""
    parts = (
        ("Data", info.data),
        ("Settings", info.settings),
        ("Versions and machine", info.environment),
    )
    if not info.command and not any(values for _, values in parts):
        return
    yield Heading(2, "How to reproduce")
    if info.command:
        yield Code(info.command)
    if info.commit is not None:
        yield Paragraph(f"At commit {info.commit}.")
    for title, values in parts:
        if values:
            yield Folded(title, tables.settings_table(values))


def how_to_read(info: RunInfo) -> Iterator[Block]:
    """The section that says what the words and the intervals mean."""
    yield Heading(2, "How to read it")
    yield Bullets(
        [
            "Each run is judged by the test AUC of the epoch with its highest validation AUC, "
            "so models are compared peak against peak and the test set chooses nothing.",
            "Two kinds of chance make the 95% interval: training (Welch's t interval over seeds) "
            "and who is in the test set (its users are drawn anew with replacement, the same draws "
            "for every model, AUC averaged over seeds). The two half-widths are joined as the root "
            "of their squares' sum; where only one is known, it stands alone.",
            "Better or worse is said only if that interval leaves out 0 and the difference is at "
            f"least {SMALLEST_DIFFERENCE} AUC, which is about what three seeds can resolve. All "
            "else is not told apart, which is not to say equal.",
            "Each interval stands for itself: of twenty comparisons of equals, one would leave out "
            "0 by chance.",
            "AUC, GAUC: higher is better; GAUC is AUC within each user, weighted by impressions. "
            "NE (log loss over the entropy of the mean label): lower is better, 1 is predicting "
            "the mean. Calibration: mean prediction over mean label, 1 is right.",
            f"The baseline is {tables.baseline_name(info)}, at the same width where there are "
            "several.",
        ]
    )
