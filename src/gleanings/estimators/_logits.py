"""Logits as the estimators see them: checked, finite, categorical, in float32 or float64."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from gleanings.core.errors import ConfigError

# Stands for -inf: far below any logit, and yet every difference and logsumexp of such values is finite in float32.
EXCLUDED = -1e30


class Logits(eqx.Module):
    """The logits of all leaves as `[*batch, D, K]` floats without infinities, and how to go back.

    `excluded` marks categories whose logit was -inf; `valid` the examples in which every variable has a distribution
    (no NaN or +inf, not all -inf). Examples that are not valid are computed with logits 0 and end as NaN.
    """

    leaves: list[Float[Array, "..."]]
    excluded: list[Bool[Array, "..."]]
    valid: Bool[Array, "*batch"]
    treedef: Any = eqx.field(static=True)
    dtypes: tuple[jnp.dtype, ...] = eqx.field(static=True)
    binary: bool = eqx.field(static=True)

    @classmethod
    def of(cls, logits: PyTree, variable: Literal["categorical", "binary"]) -> "Logits":
        """Check and clean `logits`; ConfigError naming the leaf for a wrong dtype, rank or batch shape."""
        paths, treedef = jax.tree_util.tree_flatten_with_path(logits)
        binary = variable == "binary"
        raw = [_checked(leaf, f"logits{jax.tree_util.keystr(path)}", binary) for path, leaf in paths]
        if not raw:
            raise ConfigError("logits is an empty pytree: at least one array [*batch, D, K] is needed")
        rank = 1 if binary else 2
        batch = raw[0].shape[:-rank]
        for (path, _), leaf in zip(paths, raw, strict=True):
            if leaf.shape[:-rank] != batch:
                raise ConfigError(
                    f"logits{jax.tree_util.keystr(path)} has batch shape {list(leaf.shape[:-rank])} "
                    f"where other leaves have {list(batch)}: all leaves share one batch"
                )
        wide = [leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32)) for leaf in raw]
        if binary:
            wide = [jnp.stack([jnp.zeros_like(leaf), leaf], -1) for leaf in wide]
        good = [_has_distribution(leaf) for leaf in wide]
        valid = jnp.stack([leaf.all((-2, -1)) for leaf in good]).all(0)
        leaves = [jnp.where(valid[..., None, None], jnp.maximum(leaf, EXCLUDED), jnp.zeros_like(leaf)) for leaf in wide]
        excluded = [jnp.isneginf(leaf) for leaf in wide]
        return cls(leaves, excluded, valid, treedef, tuple(leaf.dtype for leaf in raw), binary)

    @property
    def batch(self) -> tuple[int, ...]:
        """Batch shape."""
        return self.valid.shape

    @property
    def dtype(self) -> jnp.dtype:
        """The widest dtype of the leaves, float32 or float64."""
        return jnp.result_type(*self.leaves)

    def samples(self, one_hot: Sequence[Array]) -> PyTree[Float[Array, "..."]]:
        """Categorical samples `[n, *batch, D, K]` per leaf as the user sees them, in the dtypes of the logits."""
        leaves = [
            (leaf[..., 1] if self.binary else leaf).astype(dtype)
            for leaf, dtype in zip(one_hot, self.dtypes, strict=True)
        ]
        return jax.tree_util.tree_unflatten(self.treedef, leaves)

    def value(self, f_values: Float[Array, "n *batch"], weights: Float[Array, "n *batch"]) -> Float[Array, "*batch"]:
        """sum_i w_i f_i, NaN for the examples that are not valid or in which a value of f is not finite."""
        usable = self.valid & jnp.isfinite(f_values).all(0)
        return jnp.where(usable, (weights * f_values).sum(0).astype(f_values.dtype), jnp.nan)

    def cotangent(self, leaves: Sequence[Array], usable: Bool[Array, "*batch"]) -> PyTree[Float[Array, "..."]]:
        """Cotangents `[*batch, D, K]` per leaf with the structure, shapes and dtypes of the user's logits."""
        usable = (usable & self.valid)[..., None, None]
        out = []
        for leaf, excluded, dtype in zip(leaves, self.excluded, self.dtypes, strict=True):
            leaf = jnp.where(usable, jnp.where(excluded, 0, leaf), jnp.nan)
            out.append((leaf[..., 1] if self.binary else leaf).astype(dtype))
        return jax.tree_util.tree_unflatten(self.treedef, out)


def _checked(leaf: Array, name: str, binary: bool) -> Array:
    if not hasattr(leaf, "dtype") or not jnp.issubdtype(leaf.dtype, jnp.floating):
        kind = getattr(leaf, "dtype", type(leaf).__name__)
        raise ConfigError(f"{name} has dtype {kind}: floating-point logits are needed (logits.astype(float))")
    rank, shape = (1, "[*batch, D]") if binary else (2, "[*batch, D, K]")
    if leaf.ndim < rank:
        raise ConfigError(f"{name} has shape {list(leaf.shape)}: {shape} is needed, add the missing axis")
    if not binary and leaf.shape[-1] == 0:
        raise ConfigError(f"{name} has shape {list(leaf.shape)}: at least one category (K >= 1) is needed")
    return jnp.asarray(leaf)


def _has_distribution(logits: Array) -> Array:
    """`[*batch, D, 1]`: whether a variable's logits define a distribution."""
    broken = jnp.isnan(logits) | jnp.isposinf(logits)
    return ~broken.any(-1, keepdims=True) & ~jnp.isneginf(logits).all(-1, keepdims=True)


def num_outcomes(logits: Logits) -> int:
    """Number of joint values of all variables."""
    return math.prod(leaf.shape[-1] ** leaf.shape[-2] for leaf in logits.leaves)
