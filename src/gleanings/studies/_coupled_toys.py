"""Estimators on toys of the study of coupled gradients: the variance table, and the check of unbiasedness.

Each function returns JSON, so that it can run in any order and in any process.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from gleanings.core.keys import stream
from gleanings.estimators import check_unbiased, exact_gradient
from gleanings.estimators.toys import Objective, toy
from gleanings.studies._coupled_moments import moments, plain_compilation
from gleanings.studies._coupled_setup import BINARY, K8, Scale, member, with_baselines

_TOY_VARIABLES, _TOY_BITS = 4, 8
_OBJECTIVES: tuple[Objective, ...] = ("mlp", "sep")
_CHECKED = ("num_evaluations", "draws", "max_abs_z", "mean_z2", "mean_z2_limit", "bias", "passed")


def toys(problem: str, scale: Scale, seed: int) -> list[dict[str, Any]]:
    """Variance of every member on a toy, for both objectives, and the distance of the mean from the exact gradient.

    `noise` is the distance that is expected without bias.
    """
    binary = problem == "binary"
    sizes = (_TOY_BITS, 2) if binary else (_TOY_VARIABLES, int(problem[1:]))
    functions, logits = zip(*(toy(objective, *sizes, binary=binary) for objective in _OBJECTIVES), strict=True)
    kind = "binary" if binary else "categorical"
    exact = jax.jit(
        lambda: [exact_gradient(*pair, kind)[1].reshape(-1) for pair in zip(functions, logits, strict=True)]
    )()

    def both(stacked: Array) -> tuple[Any, Array]:
        # One program for the two objectives: the first example is for mlp, the second for sep.
        def f(z: Array) -> Array:
            examples = jnp.moveaxis(z, z.ndim - stacked.ndim, 0)
            return jnp.stack([one(example) for one, example in zip(functions, examples, strict=True)], -1)

        return f, stacked

    rows, stacked = [], np.stack(logits)
    for name in toy_members(problem, scale):
        estimator = member(name, binary)
        with plain_compilation():
            run = moments(estimator, both, scale.toy_draws)
            moment = jax.device_get(run(stream(seed, f"{problem} {name}"), stacked))
        for i, objective in enumerate(_OBJECTIVES):
            rows.append(
                {
                    "objective": objective,
                    "member": name,
                    "evaluations": estimator.evaluations(logits[0]),
                    "variance": float(moment.variance[i]),
                    "standard_error": float(moment.standard_error[i]),
                    "bias": float(np.linalg.norm(moment.mean[i] - exact[i])),
                    "noise": float(np.sqrt(moment.variance[i] / scale.toy_draws)),
                }
            )
    return rows


def toy_members(problem: str, scale: Scale) -> tuple[str, ...]:
    """Members measured on a toy, with RLOO at each of their numbers of evaluations."""
    if problem == "binary":
        return BINARY
    if problem == "k8":
        return K8
    evaluated = (*scale.unbiased, *scale.biased)
    return with_baselines(evaluated, 3, variables=_TOY_VARIABLES)


def unbiased(names: Sequence[str], draws: int, seed: int) -> list[dict[str, Any]]:
    """`check_unbiased` of members on the toy mlp: K = 3, or binary, or K = 8 for the control that must fail."""
    rows = []
    for name in names:
        binary = member(name).variable == "binary"
        sizes = (_TOY_BITS, 2) if binary else (_TOY_VARIABLES, 8 if name == "unsorted-iw" else 3)
        f, logits = toy("mlp", *sizes, binary=binary)
        with plain_compilation():
            key = stream(seed, f"unbiased {name}")
            check = check_unbiased(member(name), f, logits, key, draws)
        rows.append({"member": name} | {field: getattr(check, field) for field in _CHECKED})
    return rows
