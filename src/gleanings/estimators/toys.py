"""Two small functions of discrete variables on which estimators are compared, with random logits."""

from collections.abc import Callable
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gleanings.core.errors import ConfigError

Objective = Literal["mlp", "sep"]


def toy(
    objective: Objective, variables: int, categories: int, seed: int = 0, binary: bool = False
) -> tuple[Callable[[Float[Array, "*samples"]], Float[Array, "..."]], Float[Array, "..."]]:
    """f and logits `[D, K]` (binary: `[D]`, `categories` is not used), all from standard normal draws of `seed`.

    f takes one-hot `[*lead, D, K]` (binary: 0/1 `[*lead, D]`) to `[*lead]`. "mlp" couples all variables:
    sum_h c_h tanh(0.7 w_h . z + d_h) with 16 units, c / 4 (binary: 12 units, c / 3.5). "sep" treats them apart:
    sum_d (v_z - 0.49)^2, v spaced evenly from 0 to 1. Raises ConfigError for sizes below 1 or another objective.
    Source: ours; "sep" after Tucker et al. 2017, arXiv 1703.07370, section 5.1.
    """
    if objective not in get_args(Objective) or variables < 1 or (categories < 1 and not binary):
        raise ConfigError(
            f"objective {objective!r}, variables {variables}, categories {categories}: 'mlp' or 'sep', sizes from 1"
        )
    rng = np.random.default_rng(seed)
    event = (variables,) if binary else (variables, categories)
    units, scale = (12, 3.5) if binary else (16, 4.0)
    logits, c = rng.normal(size=event), rng.normal(size=units) / scale
    w, d = rng.normal(size=(units, int(np.prod(event)))), rng.normal(size=units)
    levels = np.linspace(0, 1, categories)

    def mlp(z: Array) -> Array:
        flat = z.reshape(*z.shape[: z.ndim - len(event)], -1)
        return jnp.tanh(0.7 * flat @ jnp.asarray(w.T, z.dtype) + jnp.asarray(d, z.dtype)) @ jnp.asarray(c, z.dtype)

    def sep(z: Array) -> Array:
        v = z if binary else z @ jnp.asarray(levels, z.dtype)
        return ((v - 0.49) ** 2).sum(-1)

    return {"mlp": mlp, "sep": sep}[objective], jnp.asarray(logits, jnp.float32)
