"""What the numbers of the study of coupled gradients say, and what they do not, in sentences made from them."""

from typing import Any

import numpy as np

from gleanings.core.stats import Interval, paired_difference
from gleanings.studies._coupled_judge import as_ratio, bound_differences, interval_of, log_ratios, shown
from gleanings.studies._coupled_setup import NEW, PAPER, label


def on_basket(values: dict[str, Any]) -> str:
    """What the first figure shows."""
    scale = values["scale"]
    concentration = ", ".join(f"{q:.2f}" for q in _concentration(values))
    return (
        f"Variance of the gradient in the encoder's logits over that of RLOO with as many evaluations: geometric mean "
        f"over {scale['images']} test images of {values['dataset']} and {_seeds(scale['seeds'])}, {scale['draws']} "
        f"gradients each, with 95 % intervals. Below 1 is better. At the checkpoints the largest probability of a "
        f"variable is {concentration} on average (uniform: {1 / scale['categories']:.2f})."
    )


def reading(values: dict[str, Any]) -> str:
    """The honest part: what follows, and what does not."""
    parts = [
        _on_concentration(values),
        _on_more_evaluations(values),
        _on_cost(values),
        _on_bound(values),
        _on_biased(values),
    ]
    trained = len(values["training"]["rloo-2"]["seeds"])
    parts.append(
        f"All of this speaks of one model and of {values['dataset']}, with {_seeds(values['scale']['seeds'])} in the "
        f"basket and {trained} trained. A bootstrap over few seeds is too sure of itself; the column `widened` below "
        "has the correction for that, which the rule does not use."
    )
    return "\n\n".join(part for part in parts if part)


def _seeds(count: int) -> str:
    return "one seed" if count == 1 else f"{count} seeds"


def _concentration(values: dict[str, Any]) -> list[float]:
    training = values["training"]["rloo-2"]
    at = [training["steps"].index(step) for step in values["checkpoints"]]
    return np.asarray(training["max_probability"], float)[:, at].mean(0).tolist()


def _pooled(values: dict[str, Any], names: tuple[str, ...], checkpoint: int = -1) -> Interval:
    return as_ratio(interval_of(np.mean([log_ratios(values, name, checkpoint) for name in names], 0)))


def _on_concentration(values: dict[str, Any]) -> str:
    if not set(PAPER + NEW) <= set(values["basket"]):
        return ""
    q = _concentration(values)
    first, last = (_pooled(values, PAPER + NEW, c) for c in (-len(q), -1))
    grows = last.estimate < first.estimate
    return (
        "The gain depends on how concentrated q is. At the first checkpoint, where the largest probability is "
        f"{q[0]:.2f}, the coupled estimators have on average {shown(first)} of the variance of RLOO at equal "
        f"evaluations, at the last, where it is {q[-1]:.2f}, {shown(last)}: the gain "
        f"{'grows as the encoder becomes certain' if grows else 'does not grow here'}. While q is nearly uniform, two "
        "independent draws of a variable seldom coincide, and coupling has little to improve."
    )


def _on_more_evaluations(values: dict[str, Any]) -> str:
    if not {"pairs-8", *NEW} <= set(values["basket"]):
        return ""
    pairs = [shown(_pooled(values, (name,))) for name in ("pairs-4", "pairs-8")]
    coupled = [shown(_pooled(values, (name,))) for name in ("coupled-4", "coupled-8")]
    return (
        "More evaluations should be coupled together, not averaged in pairs: with 4 and 8 evaluations averaged Tree "
        f"pairs have {pairs[0]} and {pairs[1]} times the variance of RLOO, CoupledLOO has {coupled[0]} and "
        f"{coupled[1]}."
    )


def _on_cost(values: dict[str, Any]) -> str:
    basket = values["basket"]
    if not {"null", *PAPER, *NEW} <= set(basket):
        return ""
    times = {name: _time_ratio(basket, name) for name in ("null", *PAPER, *NEW)}
    same = times.pop("null")
    wins = sum(time * _pooled(values, (name,)).estimate < 1 for name, time in times.items())
    doubt = "" if 0.8 < same < 1.25 else " That is too much noise to rank by: other work shared the machine."
    return (
        "Equal evaluations are not equal time. Here, where f is cheap, a coupled estimate took "
        f"{min(times.values()):.1f} to {max(times.values()):.1f} times as long as one of RLOO, and variance times time "
        f"was lower for {wins} of {len(times)}. The second RLOO-2, the same program, took {same:.2f} times as long as "
        f"the first.{doubt} The dearer f is, the less the estimator's own time matters."
    )


def _time_ratio(basket: dict[str, Any], name: str) -> float:
    return basket[name]["microseconds"] / basket[f"rloo-{basket[name]['evaluations']}"]["microseconds"]


def _on_bound(values: dict[str, Any]) -> str:
    training, differences = values["training"], bound_differences(values)
    if differences is None or len(differences) < 2:
        return ""
    names = [label(name) for name in PAPER if name in training]
    spread = np.std(training["rloo-2"]["test_elbo"], ddof=1)
    difference = paired_difference(differences, np.zeros_like(differences), small_sample=True)
    verdict = (
        "The difference is clear of the noise of the seeds."
        if difference.excludes(0.0)
        else "A variance lower by some per cent cannot be seen in the bound of runs this short: it is below the noise."
    )
    return (
        f"The final test ELBO of {', '.join(names)} less that of RLOO-2 is {shown(difference)} nats, paired over "
        f"{len(differences)} seeds; RLOO-2 alone has a standard deviation of {spread:.2f} nats between seeds. {verdict}"
    )


def _on_biased(values: dict[str, Any]) -> str:
    training = values["training"]
    if "reinmax" not in training or len(training["reinmax"]["test_elbo"]) < 2:
        return ""
    unbiased = {name: np.mean(row["test_elbo"]) for name, row in training.items() if name != "reinmax"}
    best = max(unbiased, key=lambda name: unbiased[name])
    pair = (training[name]["test_elbo"] for name in ("reinmax", best))
    lead = paired_difference(*pair, small_sample=True)
    word = "leads" if lead.low > 0 else "trails" if lead.high < 0 else "is level, within the noise,"
    return (
        "A cheap biased estimator is a serious rival. ReinMax, with one evaluation and the gradient of f, ends "
        f"{shown(lead)} nats from the best unbiased one trained here ({label(best)}): it {word} in this run. Where f "
        "can be differentiated, being unbiased is not by itself worth more evaluations; where it cannot, ReinMax is no "
        "option."
    )
