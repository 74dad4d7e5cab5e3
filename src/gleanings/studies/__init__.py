"""The studies: one file per paper with its claim, protocol and verdict, loaded on demand."""

import difflib
import importlib

from gleanings.core.errors import ConfigError
from gleanings.core.study import Study

STUDIES: dict[str, str] = {
    "coupled-gradients": "gleanings.studies.coupled_gradients:STUDY",
    "modbe": "gleanings.studies.modbe:STUDY",
    "batch-policy-selection": "gleanings.studies.batch_policy_selection:STUDY",
    "driving-simulator": "gleanings.studies.driving_simulator:STUDY",
    "bc-sac": "gleanings.studies.bc_sac:STUDY",
    "driving-agents": "gleanings.studies.driving_agents:STUDY",
    "bc-sac-variants": "gleanings.studies.bc_sac_variants:STUDY",
}

__all__ = ["STUDIES", "load"]


def load(name: str) -> Study:
    """The study called `name`. ConfigError: there is none; names the nearest."""
    if name not in STUDIES:
        near = difflib.get_close_matches(name, STUDIES, n=1, cutoff=0.0) or list(STUDIES)[:1]
        raise ConfigError(f"unknown study {name!r}; did you mean {near[0]!r}? Known: {', '.join(STUDIES)}")
    module, attribute = STUDIES[name].split(":")
    return getattr(importlib.import_module(module), attribute)
