"""Leave-one-out gradients over coupled draws, and their two-sample members DisARM-SB and DisARM-Tree.

Deviations from arXiv 2106.08056: any number of evaluations instead of two, systematic coupling beside antithetic pairs
(both ours), and ascending order of the categories by default where the paper leaves the order open.
"""

from typing import ClassVar, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from gleanings.core.errors import ConfigError
from gleanings.estimators._base import (
    AbstractLeafwiseEstimator,
    Residual,
    Variable,
    check_choice,
    check_num_evaluations,
)
from gleanings.estimators._coupling import Coupling, masses
from gleanings.estimators._sampling import arrange, ascending_ranks, one_hot_at, restore
from gleanings.estimators._stick import draw_sticks, stick_cotangent
from gleanings.estimators._tree import draw_tree, tree_cotangent

Structure = Literal["tree", "stick"]
Order = Literal["ascending"] | None


class _AbstractCoupled(AbstractLeafwiseEstimator):
    structure: eqx.AbstractVar[Structure]
    coupling: eqx.AbstractVar[Coupling]
    order: eqx.AbstractVar[Order]
    is_unbiased: ClassVar[bool] = True

    def __check_init__(self) -> None:
        check_choice("structure", self.structure, ("tree", "stick"))
        check_choice("coupling", self.coupling, ("systematic", "pairs"))
        check_choice("order", self.order, ("ascending", None))
        check_choice("variable", self.variable, ("categorical", "binary"))

    def _draw_leaf(self, logits: Array, key: Array) -> tuple[Array, Residual]:
        rank = ascending_ranks(logits) if self.order else None
        draw = draw_tree if self.structure == "tree" else draw_sticks
        position, path = draw(arrange(masses(logits), rank), key, self.evaluations(logits), self.coupling)
        return one_hot_at(position, rank, logits.shape[-1], logits.dtype), (rank, path)

    def _cotangent_leaf(self, logits: Array, residual: Residual, f_values: Array) -> Array:
        rank, path = residual
        centred = (f_values - f_values.mean(0))[..., None]
        centred = jnp.broadcast_to(centred, (*f_values.shape, logits.shape[-2]))
        if self.structure == "tree":
            by_position = tree_cotangent(path, centred, logits.shape[-1])
        else:
            by_position = stick_cotangent(path, centred)
        return restore(by_position, rank)


class CoupledLOO(_AbstractCoupled):
    """Leave-one-out over n coupled draws: sum_i lambda_i s_i (f_i - mean f) at each node of a binary decomposition.

    `structure` "tree" takes log2 K steps, "stick" K - 1; `coupling` "systematic" shares one uniform among the draws at
    a node, "pairs" (n even) couples them two by two; `order` "ascending" sorts each variable's categories by logit.
    Source: ours; the pair of n = 2 is arXiv 2106.08056, section 3.
    """

    num_evaluations: int = eqx.field(static=True, default=4)
    structure: Structure = eqx.field(static=True, default="tree")
    coupling: Coupling = eqx.field(static=True, default="systematic")
    order: Order = eqx.field(static=True, default="ascending")
    variable: Variable = eqx.field(static=True, default="categorical", kw_only=True)

    def __check_init__(self) -> None:
        check_num_evaluations(self.num_evaluations, 2)
        if self.coupling == "pairs" and self.num_evaluations % 2:
            raise ConfigError(
                f"num_evaluations = {self.num_evaluations}: an even number is needed with coupling='pairs'"
            )


class DisARMSB(_AbstractCoupled):
    """Antithetic stick-breaking, two evaluations; any fixed order of the categories is unbiased.

    Source: arXiv 2106.08056, section 3.2 (DisARM-SB).
    """

    order: Order = eqx.field(static=True, default=None)
    variable: Variable = eqx.field(static=True, default="categorical", kw_only=True)
    num_evaluations: ClassVar[int] = 2
    structure: ClassVar[Structure] = "stick"
    coupling: ClassVar[Coupling] = "pairs"


class DisARMTree(_AbstractCoupled):
    """Antithetic bits along a balanced binary tree, two evaluations.

    Source: arXiv 2106.08056, section 3.3 (DisARM-Tree).
    """

    order: Order = eqx.field(static=True, default=None)
    variable: Variable = eqx.field(static=True, default="categorical", kw_only=True)
    num_evaluations: ClassVar[int] = 2
    structure: ClassVar[Structure] = "tree"
    coupling: ClassVar[Coupling] = "pairs"
