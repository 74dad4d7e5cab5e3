"""A variational autoencoder with categorical latent variables, trained with any estimator of this room.

images -> encoder -> logits [*batch, D, K] -> z, one-hot -> decoder -> Bernoulli logits of the pixels; the prior over z
has learned logits. Encoder: gradient of the chosen estimator; decoder and prior: from the same draws.

Deviations from the released launcher of arXiv 2106.08056: weights start Glorot-uniform (its start is not documented);
the decoder mirrors the encoder; the estimator is chosen freely.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

from gleanings.core.errors import ConfigError
from gleanings.data.images import binarise
from gleanings.estimators._base import AbstractEstimator
from gleanings.estimators.transform import expect

Layers = list[tuple[Float[Array, "_ _"], Float[Array, " _"]]]
AnyArray = Array | np.ndarray
Metrics = dict[str, Float[Array, ""]]
_SLOPE = 0.2  # of the leaky ReLU, for negative inputs
_AT_ONCE = 64  # images whose bound is computed together


@dataclass(frozen=True)
class Config:
    """How the autoencoder is shaped and trained; the defaults are those of the paper's released launcher."""

    estimator: AbstractEstimator
    """How the encoder's gradient is estimated, such as `CoupledLOO(4)`; for categorical variables."""
    variables: int = 20
    """Number D of latent variables."""
    categories: int = 10
    """Categories K of each variable."""
    hidden: tuple[int, ...] = (512, 256)
    """Units of the encoder's hidden layers; the decoder has them in reverse."""
    learning_rate: float = 1e-4
    """Adam's rate for encoder and decoder (and for the prior without `prior_learning_rate`)."""
    prior_learning_rate: float | None = 1e-2
    """SGD's rate for the prior's logits; None trains them by Adam too."""

    def __post_init__(self) -> None:
        if min(self.variables, self.categories, *self.hidden) < 1:
            raise ConfigError(f"variables, categories and hidden must be at least 1, got {self}")
        if self.estimator.variable != "categorical":
            raise ConfigError(f"estimator = {self.estimator}: one for categorical variables is needed")


class CategoricalVAE(eqx.Module):
    """The trained parameters: layers (weight, bias) of encoder and decoder, logits of the prior."""

    encoder: Layers
    decoder: Layers
    prior: Float[Array, "D K"]


class State(eqx.Module):
    """Parameters, the training images' mean `[P]` that centres the input, the optimiser's state, updates made."""

    params: CategoricalVAE
    mean: Float[Array, " P"]
    optimiser: PyTree
    step: Int[Array, ""]


class Bound(NamedTuple):
    """Lower bounds on log p(x) in nats, one an image: the ELBO and the importance-weighted bound."""

    elbo: Float[Array, " B"]
    importance_weighted: Float[Array, " B"]


def encode(
    params: CategoricalVAE, mean: Float[Array, " P"], images: Float[AnyArray, "*batch P"]
) -> Float[Array, "*batch D K"]:
    """Logits of q(z|x). The mean of the training images is subtracted from the input. Source: released launcher."""
    return _mlp(params.encoder, jnp.asarray(images) - mean).reshape(*images.shape[:-1], *params.prior.shape)


def log_weight(
    params: CategoricalVAE,
    images: Float[AnyArray, "*batch P"],
    logits: Float[Array, "*batch D K"],
    z: Float[Array, "*samples D K"],
) -> Float[Array, "*samples"]:
    """f(z) = log p(x|z) + log p(z) - log q(z|x) in nats, for z with sample axes before the batch.

    Source: arXiv 2106.08056, section 5, the objective of a variational autoencoder.
    """
    pixels = _decode(params, z)
    # softplus written out: on CPU jax.nn.softplus takes 2.5 times as long, and with the nets small it is what counts.
    normaliser = jnp.maximum(pixels, 0) + jnp.log1p(jnp.exp(-jnp.abs(pixels)))
    log_likelihood = (images * pixels - normaliser).sum(-1)
    difference = jax.nn.log_softmax(params.prior) - jax.nn.log_softmax(logits)
    return log_likelihood + (z * difference).sum((-2, -1))


def init(config: Config, key: Array, example: Float[AnyArray, "N *pixels"]) -> State:
    """Fresh parameters for images like `example`, training images with grey levels in 0..1.

    Their mean centres the input, and as logit(clip(mean, .001, .999)) is the decoder's first output bias.
    Raises ConfigError for integer images.
    """
    _require_floats(example, "example")
    mean = jnp.asarray(example, jnp.float32).reshape(len(example), -1).mean(0)
    pixels, latents = mean.size, config.variables * config.categories
    encoder_key, decoder_key = jax.random.split(key)
    encoder = _layers(encoder_key, (pixels, *config.hidden, latents))
    decoder = _layers(decoder_key, (latents, *config.hidden[::-1], pixels))
    visible = jnp.clip(mean, 0.001, 0.999)
    decoder[-1] = (decoder[-1][0], jnp.log(visible) - jnp.log1p(-visible))
    params = CategoricalVAE(encoder, decoder, jnp.zeros((config.variables, config.categories)))
    return State(params, mean, _optimiser(config).init(params), jnp.int32(0))


def update(config: Config, state: State, batch: Float[AnyArray, "B *pixels"], key: Array) -> tuple[State, Metrics]:
    """One step of gradient ascent on the ELBO of `batch`, grey levels in 0..1 whose pixels are drawn by `key`.

    Metrics: `vae/elbo` in nats, `vae/max_probability` the mean over variables of max_k q_k. Raises ConfigError for
    integer images or another number of pixels.
    """
    pixel_key, latent_key = jax.random.split(key)
    images = binarise(_flat(batch, state, "batch"), pixel_key, 1)

    def loss(params: CategoricalVAE) -> tuple[Array, Array]:
        logits = encode(params, state.mean, images)
        # The explicit derivative of -log q has mean zero, so q enters f through stopped logits.
        fixed = jax.lax.stop_gradient(logits)
        objective = expect(config.estimator)(lambda live, z: log_weight(live, images, fixed, z))
        return -objective(params, logits, latent_key).mean(), fixed

    (negative_elbo, logits), gradient = jax.value_and_grad(loss, has_aux=True)(state.params)
    step, optimiser = _optimiser(config).update(gradient, state.optimiser, state.params)
    metrics = {"vae/elbo": -negative_elbo, "vae/max_probability": jax.nn.softmax(logits).max(-1).mean()}
    params = jax.tree.map(lambda leaf, change: leaf + change, state.params, step)
    return State(params, state.mean, optimiser, state.step + 1), metrics


def bound(
    config: Config, state: State, images: Float[AnyArray, "B *pixels"], key: Array, num_samples: int = 100
) -> Bound:
    """Lower bounds on log p(x) of each of `images`, from `num_samples` draws of z; pixels are drawn by `key`.

    Raises ConfigError as `update` does, and for `num_samples` below 1.
    Source: Burda et al. 2016, arXiv 1509.00519, equation 8 (the importance-weighted bound).
    """
    if num_samples < 1:
        raise ConfigError(f"num_samples = {num_samples}: at least 1 is needed")
    pixel_key, latent_key = jax.random.split(key)
    binary = binarise(_flat(images, state, "images"), pixel_key, 1)

    def one(image: Float[Array, " P"], key: Array) -> Bound:
        logits = encode(state.params, state.mean, image)
        z = _draw(logits, key, num_samples)
        weights = log_weight(state.params, image, logits, z)
        return Bound(weights.mean(), jax.nn.logsumexp(weights) - jnp.log(num_samples))

    keys = jax.random.split(latent_key, len(images))
    return jax.lax.map(lambda pair: one(*pair), (binary, keys), batch_size=_AT_ONCE)


def sample(config: Config, state: State, key: Array, num_samples: int) -> Float[Array, "N P"]:
    """Pixel means of `num_samples` images drawn from the model: z from the prior, then the decoder."""
    return jax.nn.sigmoid(_decode(state.params, _draw(state.params.prior, key, num_samples)))


def _flat(images: AnyArray, state: State, name: str) -> AnyArray:
    _require_floats(images, name)
    flat = images.reshape(len(images), -1)
    if flat.shape[1] != state.mean.size:
        raise ConfigError(
            f"{name} has {flat.shape[1]} pixels an image, shape {images.shape}; expected {state.mean.size}"
        )
    return flat


def _require_floats(images: AnyArray, name: str) -> None:
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ConfigError(f"{name} has dtype {images.dtype}: pass grey levels in 0..1, such as images / 255")


def _draw(logits: Array, key: Array, n: int) -> Array:
    """n one-hot draws `[n, D, K]`."""
    index = jax.random.categorical(key, logits, shape=(n, logits.shape[0]))
    return jax.nn.one_hot(index, logits.shape[1])


def _decode(params: CategoricalVAE, z: Array) -> Array:
    """Logits of the pixels, `[*samples, P]`."""
    return _mlp(params.decoder, (2 * z - 1).reshape(*z.shape[:-2], -1))


def _mlp(layers: Layers, x: Array) -> Array:
    for weight, bias in layers[:-1]:
        x = jax.nn.leaky_relu(x @ weight + bias, _SLOPE)
    weight, bias = layers[-1]
    return x @ weight + bias


def _layers(key: Array, sizes: tuple[int, ...]) -> Layers:
    glorot = jax.nn.initializers.glorot_uniform()
    keys = jax.random.split(key, len(sizes) - 1)
    shapes = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [(glorot(key, (inputs, outputs)), jnp.zeros(outputs)) for key, inputs, outputs in shapes]


def _optimiser(config: Config) -> Any:
    adam = optax.adam(config.learning_rate)
    if config.prior_learning_rate is None:
        return adam
    return optax.partition({"nets": adam, "prior": optax.sgd(config.prior_learning_rate)}, _labels)


def _labels(params: CategoricalVAE) -> PyTree:
    return jax.tree_util.tree_map_with_path(lambda path, _: "prior" if path[0].name == "prior" else "nets", params)
