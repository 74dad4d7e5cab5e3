"""A bandit on real images: scikit-learn's handwritten digits, where the right arm is the digit that is shown."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from gleanings.core.errors import ConfigError
from gleanings.selection.bandit import BanditLog
from gleanings.selection.bandit_problems import BanditProblem
from gleanings.selection.classes import pca
from gleanings.selection.pessimistic import BanditClass, HeadLinear

COMPONENTS = (1, 3, 8, 20, 40)
_ARMS, _TRAIN, _LABELLED, _UNIFORM = 10, 1000, 60, 0.2


class Digits(NamedTuple):
    """Images as rows of 64 grey levels in 0..1, and what they show."""

    pixels: Float[np.ndarray, "N 64"]
    labels: Int[np.ndarray, " N"]


def load_digits() -> Digits:
    """The 1,797 images of 8x8 pixels that come with scikit-learn. ConfigError: it is not installed."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ConfigError("digits need scikit-learn: pip install 'gleanings[studies]'") from error
    pixels, labels = datasets.load_digits(return_X_y=True)
    return Digits(np.asarray(pixels, float) / 16, np.asarray(labels))


def digits_bandit(n: int, seed: int) -> BanditProblem:
    """Ten arms, one a digit; the reward is 1 for the digit that an image shows and 0 otherwise.

    The images are cut at random into 1,000 to log and 797 to judge on; a log of more rows shows images again, grouped
    by image. The logger draws from the square roots of the probabilities of a classifier trained on 60 of the labels,
    mixed with 20 % uniform. Classes have weights for each arm on 1 and the leading 1, 3, 8, 20, 40 principal components
    of the logged images. Source: Dudik, Langford & Li 2011 for bandits made of classification; the logger is ours.

    ConfigError: scikit-learn is not installed, or n is less than the 40 components.
    """
    digits, rng = load_digits(), np.random.default_rng(seed)
    order = rng.permutation(len(digits.labels))
    logged, judged = order[:_TRAIN], order[_TRAIN:]
    rows = np.resize(logged, n)
    chances = _logger(digits, logged[:_LABELLED], rows)
    action = (rng.random((n, 1)) >= chances.cumsum(1)[:, :-1]).sum(1).astype(np.int32)
    reward = (action == digits.labels[rows]).astype(float)
    features = pca(digits.pixels[rows], COMPONENTS[-1])

    def context(of: Int[np.ndarray, " B"]) -> Float[np.ndarray, "B C"]:
        return np.asarray(features(digits.pixels[of]), float)[:, 1:]

    names = tuple(f"digit {a}" for a in range(_ARMS))
    log = BanditLog(context(rows), action, reward, chances[np.arange(n), action], names, group=rows)
    classes: list[BanditClass] = [HeadLinear(1 + d) for d in COMPONENTS]
    return BanditProblem(log, classes, context(judged), np.eye(_ARMS)[digits.labels[judged]])


def _logger(digits: Digits, labelled: Int[np.ndarray, " m"], rows: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n A"]:
    """Probability of each arm; the square root flattens what the classifier is sure of."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(max_iter=1000).fit(digits.pixels[labelled], digits.labels[labelled])
    chances = np.zeros((len(rows), _ARMS))
    chances[:, model.classes_] = np.sqrt(model.predict_proba(digits.pixels[rows]))
    chances /= chances.sum(1, keepdims=True)
    return (1 - _UNIFORM) * chances + _UNIFORM / _ARMS
