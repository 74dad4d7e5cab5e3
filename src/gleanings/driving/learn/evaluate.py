"""What a policy does in scenes, by difficulty and world, and how two differ. Source: ours, design page 3.10."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, get_args, runtime_checkable

import jax
import numpy as np
from jaxtyping import Bool, Float, Key

from gleanings.core.errors import ConfigError
from gleanings.core.stats import Difference, Interval, bootstrap_ci, crossed_difference, wilson
from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.config import Others, WorldConfig
from gleanings.driving.learn.contract import caveat
from gleanings.driving.learn.drives import drive
from gleanings.driving.learn.outcomes import MEANS, RATES, THRESHOLDS, Outcomes, outcomes_of
from gleanings.driving.learn.split import log_id
from gleanings.driving.learn.world import World
from gleanings.driving.scene import Scene

FEWEST, FEWEST_LOGS = 30, 10
"""Scenes and logs below which a bucket has figures but no interval."""
_DRAWS = 1000
_COLUMNS = {
    "failure": "failure %",
    "failure_star": "failure* %",
    "at_fault": "at fault %",
    "off_road": "off road %",
    "off_route": "off route %",
    "progress_ratio": "progress",
    "ade_m": "ADE m",
    "comfort": "comfort %",
    "saturated": "|u| > .95",
}


@runtime_checkable
class Buckets(Protocol):
    """Groups of the scenes by difficulty, such as `difficulty.Buckets`."""

    @property
    def names(self) -> Sequence[str]:
        """Of the groups."""
        ...

    def mask(self, name: str) -> Bool[np.ndarray, " C"]:
        """Which scenes are in the group."""
        ...


@dataclass(frozen=True)
class PolicyEvaluation:
    """Outcomes of C scenes in one or more worlds. label: of the policy. scenes: names. worlds: outcomes by what the
    others do. buckets: bool [C] by name, `all` first. trained: what the others did in training; "": not trained.
    frozen_at: iteration at which its training broke off, so that all scenes count as failed; None: it did not."""

    label: str
    scenes: tuple[str, ...]
    worlds: Mapping[str, Outcomes]
    buckets: Mapping[str, Bool[np.ndarray, " C"]]
    trained: str = ""
    frozen_at: int | None = None

    @property
    def logs(self) -> np.ndarray:
        """The log of each scene, by its name: windows and mirror images of one log depend on each other."""
        return np.array([log_id(name) for name in self.scenes])

    @property
    def lacking(self) -> str:
        """What has to be said of scenes without road edges; "" where all have some."""
        bare = int((~self.outcomes().edges).sum())
        count = f"{bare} of {len(self.scenes)} scenes have no road edges"
        return f"{count}: leaving the road is not known there, and failure is contact alone" if bare else ""

    def shifted(self, world: str) -> bool:
        """Whether the policy was trained against others that behave differently."""
        return self.trained not in ("", world)

    def figure(self, metric: str, bucket: str = "all", world: str | None = None) -> Interval:
        """Mean over the scenes of a bucket where the metric is defined, `n` of them.

        Wilson's interval for rates, else a bootstrap over scenes; where scenes come of the same logs, one over logs.
        NaN bounds below 30 scenes or 10 logs. world: None: the first. ConfigError: an unknown name.
        """
        values, logs = self._values(metric, bucket, world), self.logs[self.mask(bucket)]
        values, logs = values[np.isfinite(values)], logs[np.isfinite(values)]
        count = len(set(logs))
        if len(values) < FEWEST or count < FEWEST_LOGS:
            return Interval(float(values.mean()) if len(values) else math.nan, math.nan, math.nan, 0.95, len(values))
        if count < len(values):
            return _over_logs(values, logs)
        if metric.partition("@")[0] in RATES:
            return wilson(int(values.sum()), len(values))
        return bootstrap_ci(values, draws=_DRAWS)

    def table(self) -> str:
        """Text: a line a world and bucket, with 95 % intervals, and n scenes; above it, whether training broke off."""
        head = ["world", "shifted world", "bucket", "n", *_COLUMNS.values()]
        rows = [
            [world, "yes" if self.shifted(world) else "no", bucket, str(int(mask.sum()))]
            + [_shown(self.figure(metric, bucket, world), metric) for metric in _COLUMNS]
            for world in self.worlds
            for bucket, mask in self.buckets.items()
        ]
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [head, *rows]]
        trained = f", trained with others: {self.trained}" if self.trained else ""
        said = filter(None, [caveat(self.frozen_at), self.lacking])
        above = [f"{self.label}: {len(self.scenes)} scenes{trained}", *said]
        return "\n".join([*above, *(line.rstrip() for line in lines)])

    def __str__(self) -> str:
        return self.table()

    def to_json(self) -> dict[str, Any]:
        """For `json.dumps`: figures by world, bucket and metric, failure* by threshold, and every scene."""
        return {
            "label": self.label,
            "trained": self.trained,
            "frozen_at": self.frozen_at,
            "lacking": self.lacking,
            "worlds": {world: self._world_json(world) for world in self.worlds},
        }

    def _world_json(self, world: str) -> dict[str, Any]:
        metrics = (*RATES, *MEANS, *(f"failure_star@{share}" for share in THRESHOLDS))
        figures = {
            bucket: {metric: _plain(vars(self.figure(metric, bucket, world))) for metric in metrics}
            for bucket in self.buckets
        }
        outcomes = self.worlds[world]
        columns = {metric: outcomes.values(metric) for metric in (*RATES, *MEANS)}
        rows = [
            {"scene": name, "first_failure": int(outcomes.first_failure[i])}
            | _plain({metric: float(values[i]) for metric, values in columns.items()})
            for i, name in enumerate(self.scenes)
        ]
        return {"shifted": self.shifted(world), "figures": figures, "scenes": rows}

    def mask(self, bucket: str) -> Bool[np.ndarray, " C"]:
        """Scenes of a bucket. ConfigError: an unknown one."""
        if bucket not in self.buckets:
            raise ConfigError(f"bucket {bucket!r} is not known; known: {', '.join(self.buckets)}")
        return self.buckets[bucket]

    def outcomes(self, world: str | None = None) -> Outcomes:
        """Of a world; None: the first. ConfigError: an unknown one."""
        world = next(iter(self.worlds)) if world is None else world
        if world not in self.worlds:
            raise ConfigError(f"world {world!r} was not driven; known: {', '.join(self.worlds)}")
        return self.worlds[world]

    def _values(self, metric: str, bucket: str, world: str | None) -> Float[np.ndarray, " K"]:
        return self.outcomes(world).values(metric)[self.mask(bucket)]


def evaluate_policy(
    policy: Any,
    scenes: Sequence[Scene] | Scene,
    *,
    buckets: Buckets | None = None,
    others: Sequence[str] = ("log",),
    sample: bool = False,
    key: Key[jax.Array, ""] | None = None,
    world: WorldConfig | None = None,
    label: str | None = None,
) -> PolicyEvaluation:
    """Drive learning scenes (or a bank of them) with a `Policy` or another driver, in the worlds `others`.

    sample: draw actions instead of taking the likeliest, for a `Policy`. world: settings; None: those that the policy
    was made for. A scene whose ego has no log counts, but has no progress. A policy whose training broke off counts as
    failing in every scene. ConfigError: unknown names, settings that the policy was not made for, buckets of other
    scenes.
    """
    for name in others:
        if name not in get_args(Others):
            raise ConfigError(f"others={name!r}: use {' or '.join(get_args(Others))}")
    contract = getattr(policy, "contract", None)
    if sample:
        if not hasattr(policy, "sampling"):
            raise ConfigError("sample=True needs a Policy; other drivers decide themselves whether they draw")
        policy = policy.sampling()
    settings = world or (contract.world if contract else WorldConfig())
    bank = scenes if isinstance(scenes, Scene) else make_bank(scenes)
    names = tuple(_name(row) for row in np.asarray(bank.scene_id))
    key = jax.random.key(0) if key is None else key
    device = jax.device_put(bank)
    found, frozen_at = {}, contract.frozen_at if contract else None
    for name in others:
        one = World(replace(settings, others=name))
        found[name] = outcomes_of(one, bank, drive(one, device, policy, key), frozen_at is not None)
    masks = {"all": np.ones(len(names), bool)}
    if buckets is not None:
        masks |= {name: np.asarray(buckets.mask(name), bool) for name in buckets.names}
    for name, mask in masks.items():
        if mask.shape != (len(names),):
            raise ConfigError(f"bucket {name!r} is of {mask.shape} scenes, {len(names)} are driven")
    known = str(contract.algorithm) if contract else type(policy).__name__
    trained = str(contract.world.others) if contract else ""
    return PolicyEvaluation(label or known, names, found, masks, trained, frozen_at)


def compare(
    a: Sequence[PolicyEvaluation],
    b: Sequence[PolicyEvaluation],
    metric: str = "failure",
    bucket: str = "all",
    *,
    against: str | None = None,
    world: str | None = None,
    clusters: Sequence[Any] | np.ndarray | None = None,
    draws: int = 5000,
) -> Difference:
    """A - B of a metric in a bucket, one evaluation a seed, paired by seed and scene: `stats.crossed_difference`.

    Scenes are resampled within their kind (`kind_of`); those where the metric is undefined for any seed are left out.
    A seed whose training broke off stays in, with every scene failed.
    against: the contrast [A - B] in `bucket` minus [A - B] in `against`. clusters: a label a scene; scenes of one kind
    and label, such as those that share a map, are drawn together; None: those of one log. Below 30 scenes there is no
    interval.
    ConfigError: other numbers of seeds, scenes or labels, no scene left, an unknown name.
    """
    if len(a) != len(b) or not a or any(one.scenes != a[0].scenes for one in (*a, *b)):
        raise ConfigError(f"compare: {len(a)} and {len(b)} evaluations; need one a seed on both sides, of equal scenes")
    first, second = (np.stack([one.outcomes(world).values(metric) for one in side]) for side in (a, b))
    known = np.isfinite(first).all(0) & np.isfinite(second).all(0)
    masks = [a[0].mask(name) & known for name in (bucket, against) if name is not None]
    sizes = [int(mask.sum()) for mask in masks]
    if min(sizes) == 0:
        raise ConfigError(f"compare: {metric!r} is defined in no scene of bucket {bucket!r} or {against!r}")
    signs = (1.0, -1.0)
    weights = sum(sign * mask / size for sign, mask, size in zip(signs, masks, sizes, strict=False))
    used = np.any(masks, axis=0)
    kinds = [kind_of(name) for name in a[0].scenes]
    if clusters is None and len(set(a[0].logs)) < len(kinds):
        clusters = a[0].logs
    if clusters is None:
        groups, together = [f"{[bool(mask[i]) for mask in masks]} {kind}" for i, kind in enumerate(kinds)], None
    elif len(clusters) != len(kinds):
        raise ConfigError(f"compare: {len(clusters)} labels of clusters for {len(kinds)} scenes")
    else:  # a map may have scenes in both buckets
        groups = kinds
        together = np.asarray([f"{kind} {label}" for kind, label in zip(kinds, clusters, strict=True)])[used]
    found = crossed_difference(
        first[:, used],
        second[:, used],
        np.asarray(groups)[used],
        weights=np.asarray(weights, float)[used],
        clusters=together,
        draws=draws,
    )
    if min(sizes) >= FEWEST:
        return found
    note = f"{min(sizes)} scenes, fewer than {FEWEST}: no interval"
    nan = math.nan
    return replace(found, se=nan, low=nan, high=nan, p_less=nan, mde80=nan, note=note)


def _over_logs(values: Float[np.ndarray, " K"], logs: np.ndarray) -> Interval:
    """The mean with a bootstrap over logs, of which each draw takes all scenes."""
    _, index = np.unique(logs, return_inverse=True)
    sums, counts = np.bincount(index, values), np.bincount(index)
    drawn = np.random.default_rng(0).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), _DRAWS)
    low, high = np.quantile(drawn @ sums / (drawn @ counts), (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high), 0.95, len(values))


def kind_of(name: str) -> str:
    """The kind of a scene by its name: `cut_in-0-3` is cut_in; else 'log'."""
    parts = name.partition("/")[0].rsplit("-", 2)
    return parts[0] if len(parts) == 3 and parts[1].isdigit() and parts[2].isdigit() else "log"


def _name(row: np.ndarray) -> str:
    return bytes(row).rstrip(b"\0").decode("ascii", "replace")


def _shown(value: Interval, metric: str) -> str:
    scale = 100 if metric in RATES else 1
    parts = [scale * bound for bound in (value.estimate, value.low, value.high)]
    if not math.isfinite(parts[0]):
        return "-"
    digits = 0 if scale > 1 else 2
    texts = [f"{part:.{digits}f}" for part in parts]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]" if math.isfinite(parts[1]) else texts[0]


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
