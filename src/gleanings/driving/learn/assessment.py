"""Policies and controls in test scenes: figures by difficulty and world, and files of them. Source: ours."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from gleanings.driving.learn.bank import make_bank
from gleanings.driving.learn.baselines import controls
from gleanings.driving.learn.config import WorldConfig
from gleanings.driving.learn.contract import Contract
from gleanings.driving.learn.difficulty import difficulty_scores, make_buckets
from gleanings.driving.learn.drives import Drives, drive
from gleanings.driving.learn.episode_clips import episode_clips, worst_failures
from gleanings.driving.learn.evaluate import FEWEST, PolicyEvaluation
from gleanings.driving.learn.outcomes import outcomes_of
from gleanings.driving.learn.policy import Policy
from gleanings.driving.learn.style import Style, marginals, style
from gleanings.driving.learn.world import World
from gleanings.driving.scene import Scene, name_of
from gleanings.driving.sim import on_device

LOG = "expert replay"
_CLIPPED_POLICIES = 3  # panels of a clip


@dataclass(frozen=True)
class Assessment:
    """Of C test scenes. settings: of the world, whose `others` are the first world. strata: of each scene; difficulty:
    [C]. policies: by label, in all worlds; controls: in the first. styles: by label and world; actions: u of
    acceleration and of steering in the first world, by label, `LOG` for the log's."""

    settings: WorldConfig
    scenes: tuple[Scene, ...]
    strata: tuple[str, ...]
    difficulty: Float[np.ndarray, " C"]
    policies: Mapping[str, PolicyEvaluation]
    controls: Mapping[str, PolicyEvaluation]
    styles: Mapping[str, Mapping[str, Style]]
    actions: Mapping[str, tuple[np.ndarray, np.ndarray]]

    @property
    def worlds(self) -> tuple[str, ...]:
        """What the others do, the first world first."""
        return tuple(next(iter(self.policies.values())).worlds)

    @property
    def shown(self) -> tuple[str, ...]:
        """Labels of the policies whose failures can be shown: those trained to the end, of none such all."""
        whole = [label for label, one in self.policies.items() if one.frozen_at is None]
        return tuple(whole or self.policies)

    @property
    def groups(self) -> dict[str, dict[str, str]]:
        """Bucket of each label to show, by stratum; the stratum of an assessment that has but one is ''."""
        names = list(next(iter(self.policies.values())).buckets)
        strata = list(dict.fromkeys(self.strata))
        if len(strata) == 1:
            return {"": {name: name for name in names}}
        return {
            one: {name.removeprefix(one).strip() or "all": name for name in names if name.startswith(one)}
            for one in strata
        }


def assess(
    policies: Mapping[str, Policy],
    scenes: Sequence[Scene],
    *,
    strata: Sequence[str] = (),
    calibration: Sequence[Scene] = (),
    calibration_strata: Sequence[str] = (),
    worlds: Sequence[str] = ("log", "idm"),
    note: Callable[[str], None] = lambda text: None,
) -> Assessment:
    """Drive the scenes with each policy in each world, and with the controls in the first.

    All policies are of one world; one whose training broke off counts as failing in every scene. Buckets rank the
    scenes among the calibration scenes of their stratum, from 30 scenes on without such among themselves. note: told
    what comes next.
    ConfigError: scenes that the policies were not made for.
    """
    settings = replace(next(iter(policies.values())).contract.world, others=worlds[0])
    bank, names = make_bank(scenes), tuple(map(name_of, scenes))
    strata = tuple(strata) or ("",) * len(scenes)
    note("difficulty of the test scenes")
    scores = difficulty_scores([*calibration, *scenes])
    calibrated, own = np.split(scores, [len(calibration)])
    of = tuple(calibration_strata) or ("",) * len(calibration)
    if not len(calibration) and len(scenes) >= FEWEST:
        calibrated, of = own, strata
    masks = _masks(names, strata, own, of, calibrated)
    held, key = on_device(bank), jax.random.key(0)

    def driven(others: str, driver: Any) -> Drives:
        return drive(World(replace(settings, others=others)), held, driver, key)

    def evaluation(label: str, drives: Mapping[str, Drives], contract: Contract | None = None) -> PolicyEvaluation:
        frozen_at = contract.frozen_at if contract else None
        worlds = {
            others: outcomes_of(World(replace(settings, others=others)), bank, one, frozen_at is not None)
            for others, one in drives.items()
        }
        return PolicyEvaluation(label, names, worlds, masks, str(contract.world.others) if contract else "", frozen_at)

    note("controls in the test scenes")
    known = {name: driven(worlds[0], control) for name, control in controls(settings.every).items()}
    found: dict[str, PolicyEvaluation] = {}
    styles: dict[str, dict[str, Style]] = {}
    actions = {LOG: marginals(known[LOG])}
    for label, policy in policies.items():
        note(f"{label} in the test scenes")
        own_drives = {others: driven(others, policy) for others in worlds}
        found[label] = evaluation(label, own_drives, policy.contract)
        styles[label] = {others: style(bank, drives, known[LOG]) for others, drives in own_drives.items()}
        actions[label] = marginals(own_drives[worlds[0]])
    judged = {name: evaluation(name, {worlds[0]: drives}) for name, drives in known.items()}
    return Assessment(settings, tuple(scenes), strata, own, found, judged, styles, actions)


def failure_clips(assessed: Assessment, policies: Mapping[str, Any], count: int = 4) -> dict[str, str]:
    """Clips by scene of the first policy's worst failures in the first world, with the next policies beside it, without
    those whose training broke off; of several strata as many each."""
    first = assessed.policies[assessed.shown[0]].outcomes()
    worst = worst_failures(first, assessed.difficulty, len(assessed.scenes))
    strata = list(dict.fromkeys(assessed.strata))
    ranked = [[i for i in worst if assessed.strata[i] == stratum] for stratum in strata]
    scenes = [assessed.scenes[i] for some in ranked for i in some[: -(-count // len(strata))]]
    hidden = assessed.policies.keys() - set(assessed.shown)
    shown = dict([(label, one) for label, one in policies.items() if label not in hidden][:_CLIPPED_POLICIES])
    return dict(zip(map(name_of, scenes), episode_clips(World(assessed.settings), scenes, shown), strict=True))


def save_scenes(assessed: Assessment, seeds: Sequence[int], path: Path) -> None:
    """Write scenes.npz: scene, stratum, difficulty [C]; seed [S]; world [W]; [S, W, C] of failed, collision, at_fault,
    off_road, progress (over the log's, NaN: undefined) and first_failure_step (simulation steps, -1: none)."""
    rows = [[one.outcomes(world) for world in assessed.worlds] for one in assessed.policies.values()]
    every = assessed.settings.every
    fields: dict[str, Any] = {
        "failed": [[o.failed for o in row] for row in rows],
        "collision": [[o.collision for o in row] for row in rows],
        "at_fault": [[o.at_fault for o in row] for row in rows],
        "off_road": [[o.off_road for o in row] for row in rows],
        "progress": [[o.progress_ratio for o in row] for row in rows],
        "first_failure_step": [[np.where(o.first_failure < 0, -1, (o.first_failure + 1) * every) for o in row]
                               for row in rows],
    }  # fmt: skip
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(
        temporary,
        scene=np.array([name_of(scene) for scene in assessed.scenes]),
        stratum=np.array(assessed.strata),
        difficulty=assessed.difficulty,
        seed=np.array(seeds),
        world=np.array(assessed.worlds),
        **{name: np.array(values) for name, values in fields.items()},  # pyright: ignore[reportArgumentType]
    )
    temporary.replace(path)


def _masks(
    names: Sequence[str],
    strata: Sequence[str],
    scores: Float[np.ndarray, " C"],
    calibration_strata: Sequence[str],
    calibration: Float[np.ndarray, " K"],
) -> dict[str, Bool[np.ndarray, " C"]]:
    """Bucket masks, `all` first; of several strata `<stratum>` and `<stratum> top10`. Empty ones are left out."""
    masks = {"all": np.ones(len(names), bool)}
    own, of = np.array(strata), np.array(calibration_strata)
    several = len(set(strata)) > 1
    for stratum in dict.fromkeys(strata):
        inside = own == stratum
        if several:
            masks[stratum] = inside
        if not (of == stratum).any():
            continue
        ranks = make_buckets(scores, calibration[of == stratum], names)
        for name in ("bottom50", "top50", "top10", "top3"):
            masks[f"{stratum} {name}" if several else name] = ranks.mask(name) & inside
    return {name: mask for name, mask in masks.items() if mask.any()}
