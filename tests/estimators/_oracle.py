"""Oracles in float64 NumPy, free of the library: toys, exact gradients, the joint law of all n draws."""

import itertools
import math
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np


def sigmoid(a: float) -> float:
    return 1 / (1 + math.exp(-a)) if a > 0 else math.exp(a) / (1 + math.exp(a))


def softmax(theta: np.ndarray) -> np.ndarray:
    e = np.exp(theta - theta.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def probabilities(logits: np.ndarray, binary: bool) -> np.ndarray:
    return np.vectorize(sigmoid)(logits) if binary else softmax(logits)


class Toy(NamedTuple):
    """Logits [D, K] (or [D] where binary) and f, which takes NumPy or jax arrays with leading axes."""

    logits: np.ndarray
    f: Any


def toy(kind: str, D: int, K: int, seed: int = 0, binary: bool = False) -> Toy:
    """The toys of the page: `mlp` couples all variables, `sep` is a sum over variables; all normal draws.

    f may be given other `weights` (those of another seed), so that one compiled program serves several toys.
    """
    rng = np.random.default_rng(seed)
    event = (D,) if binary else (D, K)
    hidden, scale = (12, 3.5) if binary else (16, 4.0)
    logits, c = rng.normal(size=event), rng.normal(size=hidden) / scale
    w, d = rng.normal(size=(hidden, *event)).reshape(hidden, -1), rng.normal(size=hidden)
    levels = np.linspace(0, 1, 2 if binary else K)

    def f(z: Any, weights: tuple = (w.T, c, d)) -> Any:
        xp: ModuleType = np if isinstance(z, np.ndarray) else jnp
        if kind == "sep":
            v = z if binary else z @ xp.asarray(levels, z.dtype)
            return ((v - 0.49) ** 2).sum(-1)
        w, c, d = (xp.asarray(x, z.dtype) for x in weights)
        return xp.tanh(0.7 * z.reshape(*z.shape[: z.ndim - len(event)], -1) @ w + d) @ c

    return Toy(logits, f)


def all_outcomes(D: int, K: int) -> np.ndarray:
    """Every joint category [K^D, D]."""
    return np.stack(np.meshgrid(*[np.arange(K)] * D, indexing="ij"), -1).reshape(-1, D)


def exact(f: Any, logits: np.ndarray, binary: bool = False) -> tuple[float, np.ndarray]:
    """E[f] and its gradient in logits: sum over joint values of q f (o - q)."""
    q = probabilities(logits, binary)
    c = all_outcomes(len(q), 2 if binary else q.shape[1])
    o = c.astype(float) if binary else np.eye(q.shape[1])[c]
    weight = (np.where(c == 1, q, 1 - q) if binary else (o * q).sum(-1)).prod(-1)
    f_c = f(o)
    return weight @ f_c, np.tensordot(weight * f_c, o - q, 1)


def leave_one_out_variance(f: Any, logits: np.ndarray, n: int, binary: bool = False) -> float:
    """Total variance of RLOO-n by enumeration: that of the sample covariance of f and the score."""
    q = probabilities(logits, binary)
    c = all_outcomes(len(q), 2 if binary else q.shape[1])
    o = c.astype(float) if binary else np.eye(q.shape[1])[c]
    weight = (np.where(c == 1, q, 1 - q) if binary else (o * q).sum(-1)).prod(-1)
    x, s = f(o) - weight @ f(o), (o - q).reshape(len(c), -1)
    m11, m22 = (weight * x) @ s, (weight * x**2) @ s**2
    rest = (weight @ x**2) * (weight @ s**2) / (n - 1)
    return float((m22 - (n - 2) / (n - 1) * m11**2 + rest).sum() / n)


# A binary decomposition of categories is a leaf (an int) or a pair (subtree where bit = 0, where bit = 1).
def stick(leaves: list[int]) -> Any:
    return leaves[0] if len(leaves) == 1 else (stick(leaves[1:]), leaves[0])


def tree(leaves: list[int]) -> Any:
    """Halves of the leaves padded at the end to a power of two; a half without a leaf is no node."""
    if len(leaves) == 1:
        return leaves[0]
    half = 1 << (len(leaves) - 1).bit_length() - 1
    return tree(leaves[:half]), tree(leaves[half:])


def leaves_of(node: Any) -> list[int]:
    return [node] if isinstance(node, int) else leaves_of(node[0]) + leaves_of(node[1])


def decomposition(logits: np.ndarray, structure: str, order: str | None) -> Any:
    leaves = np.argsort(logits, kind="stable") if order == "ascending" else np.arange(len(logits))
    return {"stick": stick, "tree": tree}[structure](leaves.tolist())


def bits_of_uniform(shifts: np.ndarray, flips: np.ndarray, p: float) -> dict[tuple[int, ...], float]:
    """Exact law of 1[(shift + u) mod 1 < p], or of 1[1 - u < p] where flipped, over one uniform u."""
    ends = np.unique(np.concatenate([[0, 1], np.mod(-shifts, 1), np.mod(p - shifts, 1), [p, 1 - p]]))
    law: dict[tuple[int, ...], float] = {}
    for low, high in itertools.pairwise(ends):
        u = (low + high) / 2
        bits = np.where(flips, 1 - u < p, np.mod(shifts + u, 1) < p)
        law[tuple(bits.astype(int))] = law.get(tuple(bits.astype(int)), 0) + high - low
    return law


def product_law(blocks: list[tuple[list[int], dict]], c: int) -> dict[tuple[int, ...], float]:
    """Law of c bits made of independent blocks (positions, law of their bits)."""
    law = {}
    for choice in itertools.product(*[block.items() for _, block in blocks]):
        bits = np.zeros(c, int)
        for (positions, _), (values, _) in zip(blocks, choice, strict=True):
            bits[positions] = values
        law[tuple(bits)] = math.prod(probability for _, probability in choice)
    return law


def matchings(members: list[int]) -> list[list[list[int]]]:
    """All ways to split members into pairs, one member left over where their number is odd."""
    if len(members) <= 1:
        return [[members]] if members else [[]]
    if len(members) % 2:
        return [[[m], *rest] for m in members for rest in matchings([x for x in members if x != m])]
    first, others = members[0], members[1:]
    return [[[first, m], *rest] for m in others for rest in matchings([x for x in others if x != m])]


def matched_law(blocks: list[list[int]], c: int, p: float) -> dict[tuple[int, ...], float]:
    antithetic = {len(b): bits_of_uniform(np.zeros(len(b)), np.arange(len(b)) == 1, p) for b in blocks}
    return product_law([(block, antithetic[len(block)]) for block in blocks], c)


def arms_law(c: int, p: float) -> dict[tuple[int, ...], float]:
    """The Dirichlet copula: P(a given m bits are all 1) = max(1 - m t, 0)^(c-1), t = 1 - p^(1/(c-1))."""
    if p > 0.5:
        return {tuple(1 - b for b in bits): weight for bits, weight in arms_law(c, 1 - p).items()}
    t = 1 - p ** (1 / (c - 1))
    all_ones = [max(1 - m * t, 0) ** (c - 1) for m in range(c + 1)]
    exactly = [sum((-1) ** j * math.comb(c - m, j) * all_ones[m + j] for j in range(c - m + 1)) for m in range(c + 1)]
    return {bits: exactly[sum(bits)] for bits in itertools.product((0, 1), repeat=c)}


@cache
def node_law(coupling: str, members: tuple[int, ...], n: int, p: float) -> list[tuple]:
    """All (probability, bits, lambda) of the members at a node; lambda = (n I - C)^-1 1 by linear algebra.

    `pairs` and `systematic` redraw ranks; `matching` (twins 0-1, 2-3, ...) and `ranked` keep them by index.
    """
    c, place = len(members), {m: i for i, m in enumerate(members)}
    if coupling == "systematic":
        law: dict[tuple[int, ...], float] = {}
        for bits, weight in bits_of_uniform(np.arange(c) / c, np.zeros(c, bool), p).items():
            winners = list(itertools.combinations(range(c), sum(bits)))  # random ranks: any are as likely
            for chosen in winners:
                key = tuple(int(i in chosen) for i in range(c))
                law[key] = law.get(key, 0) + weight / len(winners)
        laws = [law]
    elif coupling == "pairs":
        laws = [matched_law(blocks, c, p) for blocks in matchings(list(range(c)))]
    elif coupling == "matching":
        twins = [[place[m] for m in pair if m in place] for pair in np.arange(n).reshape(-1, 2).tolist()]
        laws = [matched_law([block for block in twins if block], c, p)]
    elif coupling == "ranked":
        laws = [bits_of_uniform(np.arange(c) / c, np.zeros(c, bool), p)]
    else:
        laws = [
            arms_law(c, p) if coupling == "arms" else product_law([([i], {(0,): 1 - p, (1,): p}) for i in range(c)], c)
        ]
    merged: dict[tuple, float] = {}
    for law in laws:
        s, weight = np.array(list(law)) - p, np.array(list(law.values()))
        correlation = np.einsum("m,mi,mj->ij", weight, s, s) / (p * (1 - p))
        # Least squares: for the antithetic pair at p = 1/2 the matrix is singular and any solution will do.
        lam = np.linalg.lstsq(n * np.eye(c) - correlation, np.ones(c), rcond=1e-12)[0].round(13)
        for bits, probability in law.items():
            key = (bits, tuple(lam))
            merged[key] = merged.get(key, 0) + probability / len(laws)
    return [(weight, np.array(bits), np.array(lam)) for (bits, lam), weight in merged.items() if weight > 0]


class Law(NamedTuple):
    """Joint law of n draws of one variable: probability [M], categories [M, n], coefficients A [M, n, K]."""

    probability: np.ndarray
    samples: np.ndarray
    coefficients: np.ndarray

    def bias(self, logits: np.ndarray) -> float:
        """Largest |sum_i E[A_i 1(z_i = c)] - d q(c) / d theta| over c and theta."""
        q, o = softmax(logits), np.eye(len(logits))[self.samples]
        mean = np.einsum("m,mic,mik->ck", self.probability, o, self.coefficients, optimize=True)
        return float(np.abs(mean - (np.diag(q) - np.outer(q, q))).max())


def joint_law(logits: np.ndarray, n: int, structure: str, coupling: str, order: str | None) -> Law:
    """Leave-one-out over a decomposition: A_i = sum over nodes of (lambda_i s_i - mean_j lambda_j s_j) da."""
    K, q = len(logits), softmax(logits)

    def descend(node: Any, members: tuple[int, ...]) -> list[tuple]:
        if not members or isinstance(node, int):
            z = np.zeros(n, int)
            z[list(members)] = node if members else 0
            return [(1.0, z, np.zeros((n, K)))]
        mass = [q[leaves_of(side)].sum() for side in node]
        slope = np.zeros(K)
        for side, sign, total in zip(node, (-1, 1), mass, strict=True):
            slope[leaves_of(side)] = sign * q[leaves_of(side)] / total
        p, found = mass[1] / sum(mass), []
        for weight, bits, lam in node_law(coupling, members, n, p):
            signal = np.zeros(n)
            signal[list(members)] = lam * (bits - p)
            here = np.outer(signal - signal.mean(), slope)
            parts = [descend(node[b], tuple(m for m, x in zip(members, bits, strict=True) if x == b)) for b in (0, 1)]
            for (p0, z0, A0), (p1, z1, A1) in itertools.product(*parts):
                found.append((weight * p0 * p1, z0 + z1, here + A0 + A1))
        return found

    return Law(
        *(np.array(x) for x in zip(*descend(decomposition(logits, structure, order), tuple(range(n))), strict=True))
    )


def importance_law(logits: np.ndarray, order: str | None = "ascending") -> Law:
    """DisARM-IW: every stick bit of the antithetic pair from its own uniform, then the importance weight."""
    K = len(logits)
    ranked = np.argsort(logits, kind="stable") if order == "ascending" else np.arange(K)
    tail = np.cumsum(softmax(logits)[ranked][::-1])[::-1]
    p = softmax(logits)[ranked] / tail
    laws = [bits_of_uniform(np.zeros(2), np.array([False, True]), x) for x in p[:-1]]
    cells: dict[tuple[int, int], float] = {}
    for choice in itertools.product(*[law.items() for law in laws]):
        bits = np.array([*[b for b, _ in choice], (1, 1)])
        pair = tuple(int(x) for x in bits.argmax(0))
        cells[pair] = cells.get(pair, 0) + math.prod(weight for _, weight in choice)
    pairs, A = np.array(list(cells)), np.zeros((len(cells), 2, K))
    for row, (z, twin) in zip(A, pairs, strict=True):
        if z != twin:
            m = min(z, twin)
            w = np.prod((1 - p[:m]) ** 2 / (1 - 2 * p[:m])) * max(p[m], 1 - p[m])
            row[0, ranked[z]], row[0, ranked[twin]] = w / 2, -w / 2
            row[1] = -row[0]
    return Law(np.array(list(cells.values())), ranked[pairs], A)
