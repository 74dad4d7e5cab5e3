"""Times the peers of `gleanings.estimators`: a worker that needs torch, storchastic and reinmax, and no JAX.

One JSON command a line on stdin, one JSON answer a line on stdout:
    {"case": "storchastic-rloo2", "repeats": 5, "threads": 2}
                                                      -> {"case": ..., "times": [[wall s, cpu s], ...]}
    {"case": "reinmax-gradient", "logits": [[...]], "weights": [[[...]]], "offsets": [...], "scales": [...],
     "draws": 1000}                                   -> {"case": ..., "mean": ..., "outcomes": [...]}
    {"case": "unbiased", "draws": 20000}              -> mean gradients of the peers beside the exact one
    {"case": "info"}                                  -> versions, threads and the names of the timed cases
A command that fails answers {"case": ..., "error": ...}.

Every timed case is one training step of the same VAE: Bernoulli pixels (784), encoder and decoder with two
hidden layers of 200 (LeakyReLU .2), learned prior, batch 100, negative ELBO with log q, Adam 1e-3. Each
peer is written as fast as its documented interface allows: fused Adam, one decoder call for all samples.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # idle threads must not spin on the other side's cores

import itertools
import time
from collections.abc import Callable
from importlib.metadata import version

import storch
import torch
import torch.nn.functional as F
from _worker import serve
from reinmax import reinmax
from torch import Tensor, nn
from torch.distributions import Bernoulli, OneHotCategorical

PIXELS, HIDDEN, BATCH = 784, 200, 100
VARIABLES, CATEGORIES, BINARY = 32, 16, 200
WARM_UP = 5


def _network(inputs: int, outputs: int) -> nn.Sequential:
    leaky = nn.LeakyReLU(0.2)
    return nn.Sequential(nn.Linear(inputs, HIDDEN), leaky, nn.Linear(HIDDEN, HIDDEN), leaky, nn.Linear(HIDDEN, outputs))


class VAE(nn.Module):
    """One latent layer of shape [V, K] (one-hot) or [D] (bits); `cost` is the negative bound [n, batch]."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        size = torch.Size(shape).numel()
        self.shape, self.binary = shape, len(shape) == 1
        self.encoder, self.decoder = _network(PIXELS, size), _network(size, PIXELS)
        self.prior = nn.Parameter(torch.zeros(shape))

    def logits(self, x: Tensor) -> Tensor:
        return self.encoder(2 * x - 1).unflatten(-1, self.shape)

    def _log_mass(self, logits: Tensor, z: Tensor) -> Tensor:
        if self.binary:
            return (z * logits - F.softplus(logits)).sum(-1)
        return (z * logits.log_softmax(-1)).sum((-2, -1))

    def cost(self, z: Tensor, logits: Tensor, x: Tensor) -> Tensor:
        pixels = self.decoder((2 * z - 1).flatten(-len(self.shape)))
        log_p = (x * pixels - F.softplus(pixels)).sum(-1) + self._log_mass(self.prior, z)
        # The explicit derivative of log q has mean zero, so log q enters as a number.
        return self._log_mass(logits.detach(), z) - log_p


def _trainer(shape: tuple[int, ...], differentiate: Callable[[VAE, Tensor], None]) -> Callable[[], None]:
    torch.manual_seed(0)
    model, x = VAE(shape), torch.bernoulli(torch.full((BATCH, PIXELS), 0.3))
    adam = torch.optim.Adam(model.parameters(), 1e-3, fused=True)

    def step() -> None:
        adam.zero_grad()
        differentiate(model, x)
        adam.step()

    return step


def _storchastic(distribution: type, method: Callable[[], nn.Module]) -> Callable[[VAE, Tensor], None]:
    def differentiate(model: VAE, x: Tensor) -> None:
        storch.reset()
        logits = storch.denote_independent(model.logits(x), 0, "data")
        pixels = storch.denote_independent(x, 0, "data")
        z = method()(distribution(logits=logits, validate_args=False)).float()
        # Unwrapping once is faster than wrapped tensors all the way through the decoder.
        cost = storch.deterministic(model.cost, l_broadcast=False)(z, logits, pixels)
        storch.add_cost(cost, "negative bound")
        storch.backward()

    return differentiate


def _score_function() -> nn.Module:
    return storch.method.ScoreFunction("z", n_samples=2, baseline_factory="batch_average")


def _sample(logits: Tensor, count: int) -> Tensor:
    index = torch.multinomial(logits.detach().softmax(-1).flatten(0, -2), count, replacement=True)
    return F.one_hot(index.T.unflatten(1, logits.shape[:-1]), logits.shape[-1]).float()


def _torch_rloo2(model: VAE, x: Tensor) -> None:
    logits = model.logits(x)
    z = _sample(logits, 2)
    cost = model.cost(z, logits, x)
    signal = (cost - cost.flip(0)).detach()
    ((signal * model._log_mass(logits, z)).mean(0) + cost.mean(0)).mean().backward()


def _pathwise(relax: Callable[[Tensor], Tensor]) -> Callable[[VAE, Tensor], None]:
    def differentiate(model: VAE, x: Tensor) -> None:
        logits = model.logits(x)
        model.cost(relax(logits), logits, x).mean().backward()

    return differentiate


def _straight_through(logits: Tensor) -> Tensor:
    soft = logits.softmax(-1)
    return _sample(logits, 1)[0] + soft - soft.detach()


_MANY, _BITS = (VARIABLES, CATEGORIES), (BINARY,)
CASES: dict[str, Callable[[], Callable[[], None]]] = {
    "storchastic-rloo2": lambda: _trainer(_MANY, _storchastic(OneHotCategorical, _score_function)),
    "storchastic-disarm": lambda: _trainer(_BITS, _storchastic(Bernoulli, lambda: storch.method.DisARM("z"))),
    "storchastic-arm": lambda: _trainer(_BITS, _storchastic(Bernoulli, lambda: storch.method.ARM("z"))),
    "reinmax": lambda: _trainer(_MANY, _pathwise(lambda logits: reinmax(logits, 1.0)[0])),
    "torch-rloo2": lambda: _trainer(_MANY, _torch_rloo2),
    "torch-straight-through": lambda: _trainer(_MANY, _pathwise(_straight_through)),
    "torch-gumbel-softmax": lambda: _trainer(_MANY, _pathwise(F.gumbel_softmax)),
    "torch-gumbel-softmax-hard": lambda: _trainer(_MANY, _pathwise(lambda a: F.gumbel_softmax(a, hard=True))),
}
_ready: dict[str, Callable[[], None]] = {}


def time_case(case: str, repeats: int, threads: int = 2) -> dict:
    """Times `repeats` steps; a case met for the first time is built and warmed up outside the clock."""
    torch.set_num_threads(threads)
    if case not in _ready:
        _ready[case] = CASES[case]()
        for _ in range(WARM_UP):
            _ready[case]()
    times = []
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        _ready[case]()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    return {"times": times}


def reinmax_gradient(
    logits: list, weights: list, offsets: list, scales: list, draws: int, temperature: float = 1.0
) -> dict:
    """Gradient of f(z) = sum_h scales_h tanh(weights_h . z + offsets_h) for z [D, K]: its mean over `draws`,
    and the gradient at each outcome met (a function of the outcome alone), so that both can be compared."""
    torch.manual_seed(0)
    theta = torch.tensor(logits).expand(draws, -1, -1).clone().requires_grad_()
    z = reinmax(theta, temperature)[0]
    hidden = torch.einsum("ndk,hdk->nh", z, torch.tensor(weights)) + torch.tensor(offsets)
    (hidden.tanh() @ torch.tensor(scales)).sum().backward()
    gradient = theta.grad
    met = {tuple(c): g for c, g in zip(z.detach().argmax(-1).tolist(), gradient.tolist(), strict=True)}
    return {
        "mean": gradient.mean(0).tolist(),
        "standard_error": (gradient.std(0) / draws**0.5).tolist(),
        "outcomes": [{"categories": c, "gradient": g} for c, g in sorted(met.items())],
    }


def unbiased(draws: int) -> dict:
    """Mean gradient over `draws` of the storchastic methods on four bits, beside the enumerated gradient."""
    torch.manual_seed(0)
    theta = torch.tensor([0.8, -0.5, 0.1, 1.2], requires_grad=True)

    def f(z: Tensor) -> Tensor:
        return ((z * torch.tensor([0.4, -0.9, 0.6, 1.1])).sum(-1) - 0.3) ** 2

    outcomes = torch.tensor(list(itertools.product((0.0, 1.0), repeat=4)))
    mass = (outcomes * theta - F.softplus(theta)).sum(-1).exp()
    (exact,) = torch.autograd.grad((mass * f(outcomes)).sum(), theta)
    answer = {"exact": exact.tolist()}
    methods = {"rloo2": _score_function, "disarm": lambda: storch.method.DisARM("z")}
    for name, method in (methods | {"arm": lambda: storch.method.ARM("z")}).items():
        storch.reset()
        stacked = theta.detach().expand(draws, -1).clone().requires_grad_()
        logits = storch.denote_independent(stacked, 0, "data")
        z = method()(Bernoulli(logits=logits, validate_args=False)).float()
        storch.add_cost(storch.deterministic(f)(z), "f")
        storch.backward()
        each = stacked.grad * draws
        z_scores = (each.mean(0) - exact) / (each.std(0) / draws**0.5)
        answer[name] = {"mean": each.mean(0).tolist(), "max_abs_z": z_scores.abs().max().item()}
    return answer


def info() -> dict:
    """Versions, threads and case names."""
    versions = {name: version(name) for name in ("torch", "storchastic", "reinmax")}
    return {"versions": versions, "threads": torch.get_num_threads(), "cases": list(CASES)}


def _timed(case: str) -> Callable[..., dict]:
    return lambda **arguments: time_case(case, **arguments)


if __name__ == "__main__":
    torch.set_num_threads(2)
    timed = {case: _timed(case) for case in CASES}
    serve(timed | {"reinmax-gradient": reinmax_gradient, "unbiased": unbiased, "info": info})
