"""Propensities that were not logged, from a model of what the logger did."""

import numpy as np
from jaxtyping import Float, Int
from scipy import optimize, special

_MAX_ROWS, _LEAST = 50_000, 1e-6


def estimate_propensities(
    context: Float[np.ndarray, "N C"], action: Int[np.ndarray, " N"], num_actions: int, folds: Int[np.ndarray, " N"]
) -> Float[np.ndarray, " N"]:
    """Probability of each row's action by multinomial logistic regression fitted on the rows of the other folds.

    At most 50,000 rows are fitted on. Source: ours; the model can be wrong, which logged propensities cannot.
    """
    found = np.empty(len(action))
    phi = np.concatenate([np.ones((len(context), 1)), context], 1)
    for fold in np.unique(folds):
        rest, own = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        rest = rest[:: -(-len(rest) // _MAX_ROWS)]
        weights = _logistic(phi[rest], action[rest], num_actions)
        chances = special.softmax(phi[own] @ weights, axis=1)
        found[own] = np.maximum(chances[np.arange(len(own)), action[own]], _LEAST)
    return found


def _logistic(
    phi: Float[np.ndarray, "n d"], action: Int[np.ndarray, " n"], num_actions: int
) -> Float[np.ndarray, "d A"]:
    """Weights of the largest likelihood with a unit Gaussian prior on all but the constants."""
    n, d = phi.shape
    hot = np.eye(num_actions)[action]
    penalty = np.ones((d, 1)) / n
    penalty[0] = 1e-3 / n

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = flat.reshape(d, num_actions)
        logits = phi @ weights
        total = np.asarray(special.logsumexp(logits, axis=1, keepdims=True))
        value = (total - (logits * hot).sum(1, keepdims=True)).mean() + 0.5 * (penalty * weights**2).sum()
        return float(value), (phi.T @ (np.exp(logits - total) - hot) / n + penalty * weights).ravel()

    found = optimize.minimize(loss, np.zeros(d * num_actions), jac=True, method="L-BFGS-B")
    return found.x.reshape(d, num_actions)
