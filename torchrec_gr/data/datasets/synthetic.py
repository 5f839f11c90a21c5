"""A made-up log whose truth is known: drifting tastes, power-law items, and the best possible AUC.

The world
    Items fall into clusters of uneven size. Their popularity follows a power law with a long tail;
    each has a quality of its own and a place in a small space of styles, seen by nobody.
    A user has a taste for each cluster that drifts from day to day (a stationary AR(1) process) and
    a fixed leaning in the space of styles. Affinity of a user to an item is the day's taste for its
    cluster plus the match of styles.
    With `item_lifetime_days` items come and go: they are born at an even pace, each is at its most
    popular then, fades, and its id, as good as a random number, never comes back.

The log
    Organic events are what a user picks unprompted: the best, by affinity and chance, of a few
    items met in proportion to their popularity. They carry no label.
    Impressions are shown by a recommender that knows some of the user's affinity, a few at a time.
    The click is a Bernoulli draw of a probability that depends on affinity, quality, the device's
    fit to the cluster, the price against the age group's sensitivity to it, and fatigue.

The probabilities are known, so that the AUC of the probabilities themselves, `bayes_auc`, is the
ceiling: no model can be expected above it, and one that must infer the tastes stays below.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from torchrec_gr.data.datasets.canonical import write_parquet
from torchrec_gr.data.log_source import LogSource, TemporalSplit
from torchrec_gr.metrics import auc
from torchrec_gr.schema.feature_schema import Feature, FeatureSchema, Table

START_MS = 1_704_067_200_000  # Monday, 1 January 2024, 00:00 UTC
DAY_MS = 86_400_000
NUM_DAYS = 30
VALIDATION_FROM = START_MS + DAY_MS * NUM_DAYS * 8 // 10
TEST_FROM = START_MS + DAY_MS * NUM_DAYS * 9 // 10

NUM_DEVICES = 4
NUM_AGE_GROUPS = 6
NUM_STYLES = 6
TASTE_PERSISTENCE = 0.95  # a taste's correlation with itself a day later
CHOICE_POOL = 32  # items met before one is picked
EXPOSURE_POOL = 6  # items that the recommender ranks
IMPRESSIONS_PER_REQUEST = 4
ORGANIC = 2
"""Action of an organic event; an impression's is 1 where it was clicked, else 0."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class _Items:
    """I items: cluster and popularity rank are open, styles and quality hidden."""

    raw_id: Ints  # [I], different
    cluster: Ints  # [I]
    popularity: Floats  # [I], at its highest; sums to 1
    quality: Floats  # [I]
    style: Floats  # [I, NUM_STYLES]
    price: Floats  # [I]
    lifetime_days: float | None

    def popularity_on(self, day: int) -> Floats:
        """[I], sums to 1. Items with a lifetime are born in the order of their numbers."""
        if self.lifetime_days is None:
            return self.popularity
        born = np.linspace(-self.lifetime_days, NUM_DAYS, len(self.raw_id), endpoint=False)
        left = 1 - (day - born) / self.lifetime_days
        popularity = self.popularity * np.where(left > 1, 0.0, np.maximum(left, 0.0))
        return popularity / popularity.sum()


@dataclasses.dataclass(frozen=True)
class _Users:
    """U users: device and age group are open, tastes and styles hidden."""

    device: Ints  # [U]
    age_group: Ints  # [U]
    activity: Floats  # [U], sums to 1
    taste: Floats  # [U, NUM_DAYS, K]
    style: Floats  # [U, NUM_STYLES]


@dataclasses.dataclass(frozen=True)
class _World:
    items: _Items
    users: _Users
    device_fit: Floats  # [NUM_DEVICES, K]
    price_sensitivity: Floats  # [NUM_AGE_GROUPS]

    def affinity(self, user: Ints, day: Ints, item: Ints) -> Floats:
        """Of each user to each item on a day; the three broadcast."""
        taste = self.users.taste[user, day, self.items.cluster[item]]
        match = np.einsum("...s,...s->...", self.users.style[user], self.items.style[item])
        return taste + match / np.sqrt(NUM_STYLES)


def load(
    data_dir: Path | None,
    work_dir: Path,
    num_users: int = 4_000,
    num_items: int = 3_000,
    num_clusters: int = 30,
    num_impressions: int = 60_000,
    num_organic: int = 150_000,
    seed: int = 0,
    item_lifetime_days: float | None = None,
) -> LogSource:
    """Draws a log of 30 days; the last three are the test set, the three before validate.

    Args:
        data_dir: not read.
        work_dir: where the canonical parquet is written.
        num_users, num_items, num_clusters: of the world; of items, all that live in the 30 days.
        num_impressions: labelled rows.
        num_organic: events without a label.
        seed: the same seed draws the same log.
        item_lifetime_days: how long an item is met, of an endless stream of new ones; None: always,
            and ids count from 0.

    Returns:
        The log; `notes["bayes_auc"]` is the AUC of the true probabilities on its test set.

    Raises:
        ValueError: a size that is too small to draw a log from, or a lifetime that is too short.
    """
    for name, size, least in (
        ("num_users", num_users, 1),
        ("num_items", num_items, 2),
        ("num_clusters", num_clusters, 1),
        ("num_impressions", num_impressions, 1_000),
        ("num_organic", num_organic, 1),
    ):
        if size < least:
            raise ValueError(f"{name} must be at least {least}, got {size}")
    if item_lifetime_days is not None:
        _require_items_on_every_day(num_items, item_lifetime_days)
    rng = np.random.default_rng(seed)
    world = _draw_world(rng, num_users, num_items, num_clusters, item_lifetime_days)
    events = _draw_organic(rng, world, num_organic)
    rows, probability = _draw_impressions(rng, world, num_impressions)
    test = rows["time_ms"].to_numpy() >= TEST_FROM
    return LogSource(
        schema=_schema(),
        rows=(write_parquet(rows, work_dir / "synthetic_rows.parquet"),),
        split=TemporalSplit(VALIDATION_FROM, TEST_FROM),
        events=(write_parquet(events, work_dir / "synthetic_events.parquet"),),
        notes={"bayes_auc": auc(rows["click"].to_numpy()[test], probability[test])},
    )


def _require_items_on_every_day(num_items: int, lifetime_days: float) -> None:
    born_a_day = (num_items - 1) / (NUM_DAYS + lifetime_days)
    if not born_a_day * lifetime_days > 1:
        raise ValueError(
            f"item_lifetime_days: if {num_items} items live {lifetime_days} days each, there are "
            "days without any; let there be more items, or let them live longer"
        )


def _draw_world(
    rng: np.random.Generator,
    num_users: int,
    num_items: int,
    num_clusters: int,
    item_lifetime_days: float | None = None,
) -> _World:
    cluster_size = _power_law(num_clusters, 0.7)
    popularity = rng.permutation(_power_law(num_items, 1.0))
    number = np.arange(num_items)
    items = _Items(
        raw_id=number if item_lifetime_days is None else _scatter(number),
        cluster=rng.choice(num_clusters, size=num_items, p=cluster_size),
        popularity=popularity,
        quality=0.5 * rng.standard_normal(num_items),
        style=rng.standard_normal((num_items, NUM_STYLES)),
        price=np.exp(3 + 0.8 * rng.standard_normal(num_items)),
        lifetime_days=item_lifetime_days,
    )
    activity = np.exp(0.8 * rng.standard_normal(num_users))
    users = _Users(
        device=rng.integers(NUM_DEVICES, size=num_users),
        age_group=rng.integers(NUM_AGE_GROUPS, size=num_users),
        activity=activity / activity.sum(),
        taste=_drift(rng, num_users, num_clusters),
        style=rng.standard_normal((num_users, NUM_STYLES)),
    )
    return _World(
        items,
        users,
        device_fit=0.5 * rng.standard_normal((NUM_DEVICES, num_clusters)),
        price_sensitivity=np.linspace(0.0, 0.6, NUM_AGE_GROUPS),
    )


def _scatter(numbers: Ints) -> Ints:
    """A different number below 2 ** 63, as good as random, for each number that is below it."""
    scattered = (numbers + 1).astype(np.uint64)
    for odd in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        scattered = (scattered * np.uint64(odd)) & np.uint64(2**63 - 1)  # each step is a bijection
        scattered ^= scattered >> np.uint64(31)
    return scattered.astype(np.int64)


def _power_law(size: int, exponent: float) -> Floats:
    """[size] probabilities proportional to rank ** -exponent."""
    weights = np.arange(1, size + 1, dtype=np.float64) ** -exponent
    return weights / weights.sum()


def _drift(rng: np.random.Generator, num_users: int, num_clusters: int) -> Floats:
    """[U, NUM_DAYS, K] tastes of unit variance on every day, each day near the day before."""
    taste = np.empty((num_users, NUM_DAYS, num_clusters))
    taste[:, 0] = rng.standard_normal((num_users, num_clusters))
    fresh = np.sqrt(1 - TASTE_PERSISTENCE**2)
    for day in range(1, NUM_DAYS):
        step = rng.standard_normal((num_users, num_clusters))
        taste[:, day] = TASTE_PERSISTENCE * taste[:, day - 1] + fresh * step
    return taste


def _draw_moments(rng: np.random.Generator, world: _World, count: int) -> tuple[Ints, Ints]:
    """[N] users and times, in time order; nights are quiet."""
    user = rng.choice(len(world.users.device), size=count, p=world.users.activity)
    hours = 1 - 0.8 * np.cos(2 * np.pi * (np.arange(24) - 3) / 24)  # quietest at 3
    day = rng.integers(NUM_DAYS, size=count)
    hour = rng.choice(24, size=count, p=hours / hours.sum())
    time = START_MS + day * DAY_MS + hour * 3_600_000 + rng.integers(3_600_000, size=count)
    order = np.argsort(time, kind="stable")
    return user[order], time[order]


def _day(time: Ints) -> Ints:
    return (time - START_MS) // DAY_MS


def _rank_pool(
    rng: np.random.Generator, world: _World, user: Ints, day: Ints, pool: int, weight: float
) -> Ints:
    """[N, pool] items met by popularity, those first that a softmax of affinity picks first.

    `day` [N] ascends.
    """
    num_items = len(world.items.raw_id)
    days = zip(*np.unique(day, return_counts=True), strict=True)
    met = np.concatenate(
        [
            rng.choice(num_items, size=(num, pool), p=world.items.popularity_on(today))
            for today, num in days
        ]
    )
    affinity = world.affinity(user[:, None], day[:, None], met)
    keys = weight * affinity + rng.gumbel(size=met.shape)
    return np.take_along_axis(met, np.argsort(-keys, axis=1, kind="stable"), axis=1)


def _draw_organic(rng: np.random.Generator, world: _World, count: int) -> pa.Table:
    user, time = _draw_moments(rng, world, count)
    item = _rank_pool(rng, world, user, _day(time), CHOICE_POOL, weight=1.5)[:, 0]
    return pa.table(
        {
            "user_id": user,
            "time_ms": time,
            "item_id": world.items.raw_id[item],
            "cluster": world.items.cluster[item],
            "action": np.full(count, ORGANIC),
        }
    )


def _draw_impressions(
    rng: np.random.Generator, world: _World, count: int
) -> tuple[pa.Table, Floats]:
    """The rows, and [N] the probability that each is clicked."""
    num_requests = -(-count // IMPRESSIONS_PER_REQUEST)
    request_user, request_time = _draw_moments(rng, world, num_requests)
    ranked = _rank_pool(rng, world, request_user, _day(request_time), EXPOSURE_POOL, weight=0.5)
    item = ranked[:, :IMPRESSIONS_PER_REQUEST].ravel()[:count]
    request = np.arange(count) // IMPRESSIONS_PER_REQUEST
    user, time = request_user[request], request_time[request]
    minutes = rng.gamma(2.0, 10.0, size=num_requests)[request]  # in the app so far
    probability = _click_probability(world, user, time, item, minutes)
    click = (rng.random(count) < probability).astype(np.int64)
    table = pa.table(
        {
            "user_id": user,
            "time_ms": time,
            "item_id": world.items.raw_id[item],
            "cluster": world.items.cluster[item],
            "price": world.items.price[item].astype(np.float32),
            "device": world.users.device[user],
            "age_group": world.users.age_group[user],
            "hour": (time // 3_600_000) % 24,
            "session_minutes": minutes.astype(np.float32),
            "click": click,
            "action": click,
        }
    )
    return table, probability


def _click_probability(
    world: _World, user: Ints, time: Ints, item: Ints, minutes: Floats
) -> Floats:
    """[N] the true probability of a click."""
    fit = world.device_fit[world.users.device[user], world.items.cluster[item]]
    dearness = np.log(world.items.price[item]) - 3
    logit = (
        -1.6
        + 0.8 * world.affinity(user, _day(time), item)
        + world.items.quality[item]
        + fit
        - world.price_sensitivity[world.users.age_group[user]] * dearness
        - 0.3 * (np.log1p(minutes) - 3)
    )
    return 1 / (1 + np.exp(-logit))


def _schema() -> FeatureSchema:
    contextual = ("user_id", "device", "age_group", "hour")
    candidate = ("item_id", "cluster")
    history = ("item_id", "cluster", "action")
    return FeatureSchema(
        name="synthetic",
        labels=("click",),
        features=(
            *(Feature(name, "contextual") for name in contextual),
            Feature("session_minutes", "contextual", "dense", transform="log1p"),
            *(Feature(name, "candidate") for name in candidate),
            Feature("price", "candidate", "dense", transform="log1p"),
            *(Feature(f"history_{name}", "history", column=name) for name in history),
        ),
        tables=tuple(Table(name) for name in (*contextual, *candidate, "action")),
        user="user_id",
        time="time_ms",
        time_unit="ms",
        max_history=50,
        target="history_item_id",
        side_target="history_cluster",
    )
