"""KuaiRand-Pure: short videos that one app showed, and whether each was watched for long.

Source: Gao et al., "KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed
Videos" (CIKM 2022), the standard-policy log. What each column is taken for:

- A row's own feedback (clicks, likes, time played) is a label, or the history of later rows; never
  a feature of that row.
- `user_features` is an undated snapshot, perhaps taken later than the log.
- `music_id` names its video almost one to one: it is left out.
- `video_features_statistic` covers the whole month, the test days too: it is left out.
- Days begin at UTC+8. The published `date` disagrees with `time_ms` on some rows, so only `time_ms`
  is used.
- `upload_dt` is the day, by the same clock, on which a video came into being.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from torchrec_gr.data.datasets.canonical import (
    find_file,
    missing,
    read_columns,
    require_file,
    write_parquet,
)
from torchrec_gr.data.log_source import LogSource, TemporalSplit
from torchrec_gr.schema.feature_schema import (
    Feature,
    FeatureSchema,
    Kind,
    Statistic,
    Table,
    nearest_valid,
)
from torchrec_gr.sequences.request_batch import NO_TIME

LABELS = ("long_view", "is_click", "is_like")
DAY_MS = 86_400_000
TEST_FROM = 1_651_593_600_000  # 4 May 2022, 00:00 UTC+8
UTC_OFFSET_HOURS = 8
NUM_DURATION_BUCKETS = 12
"""A video's length in half octaves of seconds, from 5 s to 4 min; 0 is no length: pictures."""

_OFFICIAL_LOGS = (
    "log_standard_4_08_to_4_21_pure.csv",
    "log_standard_4_22_to_5_08_pure.csv",
)
_SHARED_LOG = "impressions_0425_0508.parquet"
_SHARED_HISTORY = "user_history_0409_0424.parquet"
_FEEDBACK = (
    "is_click",
    "is_like",
    "is_follow",
    "is_comment",
    "is_forward",
    "is_hate",
    "long_view",
    "play_time_ms",
    "profile_stay_time",
    "comment_stay_time",
    "is_profile_enter",
)
_LOG_COLUMNS = (
    *("user_id", "video_id", "date", "hourmin", "time_ms", "duration_ms", "is_rand", "tab"),
    *_FEEDBACK,
)
_USER_IDS = (
    "user_active_degree",
    "is_live_streamer",
    "is_video_author",
    "follow_user_num_range",
    "fans_user_num_range",
    "friend_user_num_range",
    "register_days_range",
    *(f"onehot_feat{i}" for i in range(18)),
)
_USER_NUMBERS = ("follow_user_num", "fans_user_num", "friend_user_num", "register_days")
_VIDEO_IDS = ("author_id", "tag", "video_type", "upload_type", "music_type")
_CROSS_KEYS = (
    ("user_id",),
    ("video_id",),
    ("user_id", "tab"),
)
_HISTORY = ("video_id", "author_id", "tag", "long_view", "is_like")


def load(
    data_dir: Path,
    work_dir: Path,
    label: str = "long_view",
    *,
    surface: bool = False,
    max_history: int = 50,
    item_age: bool = False,
    cross_features: bool = False,
    tasks: Sequence[str] = (),
) -> LogSource:
    """Reads the official csv files, or a partial log as parquet with the users' earlier histories.

    Exact duplicate impressions are dropped and counted. Rows from `TEST_FROM` on are the test set,
    those of the day before it the validation set.

    Args:
        data_dir: holds the two standard logs of the publisher, or `impressions_0425_0508.parquet`
            and `user_history_0409_0424.parquet` (ordered histories without times); and
            user_features and video_features_basic beside them.
        work_dir: where the canonical parquet is written.
        label: `long_view`, `is_click` or `is_like`.
        surface: adds the surface (`tab`) of each event to the history; it is not known of the
            earlier histories.
        max_history: how many newest events a history keeps.
        item_age: gives each impression the age of its video.
        cross_features: gives each impression counts, rates and recencies of its user, its video and
            what they have in common, from the past alone.
        tasks: further labels, after `label`.

    Raises:
        ValueError: a label that is unknown or given twice, or files that are missing or damaged.
    """
    labels = (label, *tasks)
    for name in labels:
        if name not in LABELS:
            raise ValueError(nearest_valid("label of data set 'kuairand-pure'", name, LABELS))
    if len(set(labels)) < len(labels):
        raise ValueError(f"a label of data set 'kuairand-pure' is given twice: {', '.join(labels)}")
    logs = _find_logs(data_dir)
    users = _read_users(require_file(data_dir, "user_features_pure.csv", "user_features.parquet"))
    videos = _read_videos(
        require_file(data_dir, "video_features_basic_pure.csv", "video_features_basic.parquet")
    )
    log = pd.concat([read_columns(path, _LOG_COLUMNS).to_pandas() for path in logs])
    impressions = log.drop_duplicates(ignore_index=True)
    dropped = {"exact duplicate of another impression": len(log) - len(impressions)}

    events: tuple[Path, ...] = ()
    history = find_file(data_dir, _SHARED_HISTORY) if logs[0].name == _SHARED_LOG else None
    if history is not None:
        table, num_late = _history_events(history, impressions, videos)
        dropped["history event of a user whose history ends after the first impression"] = num_late
        events = (write_parquet(table, work_dir / "kuairand-pure_events.parquet"),)
    rows = pa.Table.from_pandas(_canonical(impressions, users, videos), preserve_index=False)
    return LogSource(
        schema=_schema(labels, surface, max_history, item_age, cross_features),
        rows=(write_parquet(rows, work_dir / "kuairand-pure_rows.parquet"),),
        split=TemporalSplit(validation_from=TEST_FROM - DAY_MS, test_from=TEST_FROM),
        events=events,
        dropped=dropped,
    )


def _find_logs(data_dir: Path) -> list[Path]:
    if find_file(data_dir, *_OFFICIAL_LOGS) is not None:
        return [require_file(data_dir, name) for name in _OFFICIAL_LOGS]
    shared = find_file(data_dir, _SHARED_LOG)
    if shared is None:
        raise missing(
            "kuairand-pure",
            data_dir,
            "Gao et al. as KuaiRand-Pure at https://kuairand.com",
            f"{' and '.join(_OFFICIAL_LOGS)} (one impression a row: user_id, video_id, time_ms, "
            "tab, duration_ms, is_click, long_view, ...), user_features_pure.csv and "
            f"video_features_basic_pure.csv; or {_SHARED_LOG}, {_SHARED_HISTORY}, "
            "user_features.parquet and video_features_basic.parquet",
        )
    return [shared]


def _read_users(path: Path) -> pd.DataFrame:
    """User features by user id; a negative code (the publisher's "unknown") becomes null."""
    raw = read_columns(path, ("user_id", *_USER_IDS, *_USER_NUMBERS)).to_pandas()
    users = pd.DataFrame({name: _ids(raw[name]) for name in _USER_IDS})
    users[list(_USER_NUMBERS)] = raw[list(_USER_NUMBERS)].astype("float32")
    return users.set_index(raw["user_id"])


def _read_videos(path: Path) -> pd.DataFrame:
    """Video features by video id; of a video's tags the first, which is its main one."""
    raw = read_columns(path, ("video_id", "upload_dt", *_VIDEO_IDS)).to_pandas()
    first_tag = raw["tag"].astype("string").str.split(",").str[0]
    raw["tag"] = pd.to_numeric(first_tag, errors="coerce")
    videos = pd.DataFrame({name: _ids(raw[name]) for name in _VIDEO_IDS})
    videos["upload_ms"] = _day_start_ms(raw["upload_dt"])
    return videos.set_index(raw["video_id"])


def _day_start_ms(days: pd.Series) -> pd.Series:
    """Nullable integers: when a day begins at UTC+8; null where it is no day."""
    since = pd.to_datetime(days, errors="coerce") - pd.Timestamp(0)
    begins = since // pd.Timedelta(milliseconds=1) - UTC_OFFSET_HOURS * 3_600_000
    return begins.astype("Int64")


def _ids(column: pd.Series) -> pd.Series:
    """A column of ids as nullable integers or strings, null where the id is not known."""
    if not pd.api.types.is_numeric_dtype(column):
        return column.astype("string")
    return column.where(column >= 0).astype("Int64")


def _canonical(log: pd.DataFrame, users: pd.DataFrame, videos: pd.DataFrame) -> pd.DataFrame:
    """Joins what is known when a video is shown to what happened then."""
    rows = log[["user_id", "video_id", "time_ms", "tab"]].astype("int64")
    rows["hour"] = (rows["time_ms"] // 3_600_000 + UTC_OFFSET_HOURS) % 24
    rows["duration_ms"] = log["duration_ms"].astype("float32")
    rows["duration_bucket"] = _duration_bucket(log["duration_ms"].to_numpy())
    rows[list(LABELS)] = log[list(LABELS)].astype("int64")
    of_user = users.reindex(rows["user_id"]).reset_index(drop=True)
    of_user[list(_USER_NUMBERS)] = of_user[list(_USER_NUMBERS)].fillna(0.0)
    of_video = videos.reindex(rows["video_id"]).reset_index(drop=True)
    return pd.concat([rows, of_user, of_video], axis=1)


def _duration_bucket(duration_ms: np.ndarray) -> np.ndarray:
    half_octaves = np.floor(2 * np.log2(np.maximum(duration_ms, 1) / 5_000)).astype(np.int64)
    return np.where(duration_ms > 0, np.clip(half_octaves + 2, 1, NUM_DURATION_BUCKETS), 0)


def _history_events(
    path: Path, impressions: pd.DataFrame, videos: pd.DataFrame
) -> tuple[pa.Table, int]:
    """One event a row, oldest first within a user, at no known time.

    A user whose history ends no earlier than the first impression is left out: an event without a
    time counts as earlier than every impression, and this one was not.
    """
    history = read_columns(
        path, ("user_id", "last_time_ms", "video_ids", "long_view", "is_like")
    ).to_pandas()
    lengths = history["video_ids"].str.len()
    first_impression = impressions.groupby("user_id")["time_ms"].min()
    late = (history["last_time_ms"] >= history["user_id"].map(first_impression)).to_numpy()
    history, num_late = history[~late], int(lengths[late].sum())
    events = pd.DataFrame(
        {
            "user_id": np.repeat(history["user_id"].to_numpy(np.int64), lengths[~late]),
            "time_ms": np.int64(NO_TIME),
            "video_id": np.concatenate(history["video_ids"].to_numpy()).astype(np.int64),
            "long_view": np.concatenate(history["long_view"].to_numpy()).astype(np.int64),
            "is_like": np.concatenate(history["is_like"].to_numpy()).astype(np.int64),
            "tab": pd.NA,
        }
    ).astype({"tab": "Int64"})
    of_video = videos[["author_id", "tag"]].reindex(events["video_id"]).reset_index(drop=True)
    joined = pd.concat([events, of_video], axis=1)
    return pa.Table.from_pandas(joined, preserve_index=False), num_late


def _schema(
    labels: tuple[str, ...], surface: bool, max_history: int, item_age: bool, cross_features: bool
) -> FeatureSchema:
    contextual = ("user_id", "tab", "hour", *_USER_IDS)
    candidate = ("video_id", *_VIDEO_IDS, "duration_bucket")
    history = (*_HISTORY, "tab") if surface else _HISTORY
    crosses = _cross_features() if cross_features else []
    return FeatureSchema(
        name="kuairand-pure",
        labels=labels,
        features=(
            *(Feature(name, "contextual") for name in contextual),
            *(Feature(name, "contextual", "dense", transform="log1p") for name in _USER_NUMBERS),
            *(Feature(name, "candidate") for name in candidate),
            Feature("duration_ms", "candidate", "dense", transform="log1p"),
            *(Feature(f"history_{name}", "history", column=name) for name in history),
            *crosses,
        ),
        tables=(
            *(Table(name) for name in (*contextual, *candidate, "long_view", "is_like")),
            *(Table(feature.table) for feature in crosses if feature.table),
        ),
        user="user_id",
        time="time_ms",
        time_unit="ms",
        utc_offset_hours=UTC_OFFSET_HOURS,
        max_history=max_history,
        target="history_video_id",
        side_target="history_tag",
        item_time="upload_ms" if item_age else None,
        request_features=("tab", "hour"),
    )


def _cross_features() -> list[Feature]:
    """Numbers and buckets of every key; of recency only the number."""
    crosses: list[Feature] = []
    for key in _CROSS_KEYS:
        name = "_".join(key)
        crosses.append(_cross("dense", f"recency_{name}", "recency", key))
        forms: tuple[tuple[Kind, str], ...] = (("dense", ""), ("categorical", "_bucket"))
        for kind, suffix in forms:
            crosses.append(_cross(kind, f"count_{name}{suffix}", "count", key))
            crosses += [_cross(kind, f"{of}_rate_{name}{suffix}", "rate", key, of) for of in LABELS]
    return crosses


def _cross(
    kind: Kind, name: str, statistic: Statistic, key: tuple[str, ...], of: str | None = None
) -> Feature:
    return Feature(name, "candidate", kind, statistic=statistic, over=key, of=of)
