"""What must not matter: the unit of the reward, the names of the arms, a class or a column that adds nothing, the
container and the file that hold the table.
"""

import csv
import json

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gleanings.data.tables import read_table
from gleanings.selection import (
    Auto,
    BanditCandidates,
    BanditLog,
    Candidates,
    ComplexityCoverage,
    HeadLinear,
    HoldOut,
    HoldOutTD,
    Identity,
    Largest,
    ModBE,
    Pessimism,
    PolicyValue,
    PrefixLinear,
    Slope,
    Transitions,
    fqi,
    heads,
    prefix_linear,
    slope,
)

BANDIT = [Auto(), HoldOut(), HoldOut(1, "argmin", True), ComplexityCoverage(), Slope(), PolicyValue(), Largest()]
MDP = [ModBE(), HoldOutTD()]
DIMS, COLUMNS, ROWS = (1, 2, 5), 4, 240
rules = pytest.mark.parametrize("rule", BANDIT, ids=lambda rule: type(rule).__name__)
many = settings(max_examples=12, deadline=None)
seeds = st.integers(0, 10_000)
number = st.floats(-1e6, 1e6)


def bandit_log(seed: int, scale: float = 1.0) -> BanditLog:
    """Three arms, the first column of four says which of two is better."""
    rng = np.random.default_rng(seed)
    x, action = rng.normal(size=(ROWS, COLUMNS)), rng.integers(0, 3, ROWS).astype(np.int32)
    reward = x[:, 0] * np.array([1, -1, 0])[action] + rng.normal(size=ROWS)
    return BanditLog(x, action, scale * reward, np.full(ROWS, 1 / 3), ("a", "b", "c"))


def staged_log(seed: int, scale: float = 1.0) -> Transitions:
    """Two stages of 120 rows with the same signal."""
    rng = np.random.default_rng(seed)
    x, action = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32), rng.integers(0, 2, ROWS).astype(np.int32)
    reward = (scale * (x[:, 0] * (2 * action - 1) + rng.normal(size=ROWS))).astype(np.float32)
    later = rng.normal(size=(ROWS, COLUMNS)).astype(np.float32)
    stage = (np.arange(ROWS) % 2).astype(np.int32)
    return Transitions(x, action, reward, later, np.zeros(ROWS, bool), 2, stage=stage)


def process(data: Transitions, classes: list) -> Candidates:
    """Candidates by the path for any base learner, which compiles nothing anew."""
    return Candidates(classes, fqi, data, data.split(0.25, 1), jax.random.key(0))


@pytest.mark.parametrize("rule", BANDIT, ids=lambda rule: type(rule).__name__)
@given(seed=seeds, scale=st.floats(1e-3, 1e3), sigma=st.sampled_from([None, 0.5]))
@many
def test_the_unit_of_the_reward_changes_no_choice_for_bandits(rule, seed, scale, sigma):
    found = []
    for factor in (1.0, scale):
        pessimism = Pessimism(sigma=None if sigma is None else factor * sigma)
        found.append(rule.select(BanditCandidates(heads(DIMS), bandit_log(seed, factor), pessimism, 1)))
    context = bandit_log(seed).context
    assert found[0].index == found[1].index
    assert (found[0].act(context) == found[1].act(context)).all()


@given(st.lists(st.tuples(number, st.floats(1e-3, 1e3)), min_size=1, max_size=6), st.integers(-20, 20))
@settings(deadline=None)
def test_slope_of_scaled_values_and_widths_is_the_same(intervals, exponent):
    values, widths = zip(*intervals, strict=True)
    scale = 2.0**exponent
    assert slope([scale * v for v in values], [scale * w for w in widths]) == slope(values, widths)


@pytest.mark.parametrize("rule", MDP, ids=lambda rule: type(rule).__name__)
@given(seed=seeds, exponent=st.integers(-10, 10))
@settings(max_examples=6, deadline=None)
def test_the_unit_of_the_reward_changes_no_choice_for_processes(rule, seed, exponent):
    """Powers of two, which are exact in float32, so that ties of rounding are no excuse."""
    classes = prefix_linear(Identity(), DIMS)
    one, other = (rule.select(process(staged_log(seed, scale), classes)) for scale in (1.0, 2.0**exponent))
    assert (one.index, one.verdict) == (other.index, other.verdict)


@rules
@given(seed=seeds, order=st.permutations(range(3)))
@many
def test_other_names_of_the_arms_permute_the_policy(rule, seed, order):
    log = bandit_log(seed)
    renamed = BanditLog(log.context, np.array(order, np.int32)[log.action], log.reward, log.propensity, log.labels)
    one, other = (rule.select(BanditCandidates(heads(DIMS), x, seed=1)) for x in (log, renamed))
    assert one.index == other.index
    assert (one.act(log.context) == other.act(log.context)[:, list(order)]).all()


@given(seed=seeds, order=st.permutations(range(2)))
@settings(max_examples=6, deadline=None)
def test_other_names_of_the_actions_permute_the_policy_of_modbe(seed, order):
    data = staged_log(seed)
    renamed = Transitions(**{**vars(data), "action": np.array(order, np.int32)[data.action]})
    one, other = (ModBE().select(process(x, prefix_linear(Identity(), DIMS))) for x in (data, renamed))
    assert one.index == other.index
    assert (one.act(data.observation) == other.act(data.observation)[:, list(order)]).all()


class Again(HeadLinear):
    """The same class by another name."""

    @property
    def name(self) -> str:
        return f"{super().name} again"


class AgainLinear(PrefixLinear):
    """The same class by another name."""

    @property
    def name(self) -> str:
        return f"{super().name} again"


@pytest.mark.parametrize("rule", [HoldOut(), HoldOut(1, "argmin"), PolicyValue()], ids=["one_se", "argmin", "value"])
@given(seed=seeds)
@many
def test_a_copy_of_the_largest_class_or_a_zero_column_changes_nothing_for_bandits(rule, seed):
    log = bandit_log(seed)
    base = rule.select(BanditCandidates(heads(DIMS), log, seed=1))
    copied = rule.select(BanditCandidates([*heads(DIMS), Again(DIMS[-1])], log, seed=1))
    zero = np.concatenate([log.context, np.zeros((ROWS, 1))], 1)
    wider = BanditLog(zero, log.action, log.reward, log.propensity, log.labels)
    padded = rule.select(BanditCandidates([HeadLinear(1), HeadLinear(2), HeadLinear(6)], wider, seed=1))
    assert base.index == copied.index == padded.index
    assert (base.act(log.context) == copied.act(log.context)).all()
    assert (base.act(log.context) == padded.act(zero)).all()


@given(seed=seeds)
@settings(max_examples=6, deadline=None)
def test_a_copy_of_the_largest_class_or_a_zero_column_changes_nothing_for_modbe(seed):
    """Where the largest class is not reached: a copy of it would otherwise certify what nothing larger has tested."""
    data, classes = staged_log(seed), prefix_linear(Identity(), DIMS)
    base = ModBE().select(process(data, classes))
    copied = ModBE().select(process(data, [*classes, AgainLinear(classes[0].features, DIMS[-1])]))
    zeros = {name: np.pad(getattr(data, name), [(0, 0), (0, 1)]) for name in ("observation", "next_observation")}
    padded = ModBE().select(process(Transitions(**{**vars(data), **zeros}), prefix_linear(Identity(), (1, 2, 6))))
    assert base.index == copied.index == padded.index
    assert (base.act(data.observation) == copied.act(data.observation)).all()


word = st.text("abcdefgh ,\"'é", min_size=1, max_size=6).filter(lambda text: text.strip() == text)


@st.composite
def tables(draw) -> dict[str, np.ndarray]:
    """An arm, a reward, a propensity, a number, a truth value and a text in 3 to 20 rows."""
    n = draw(st.integers(3, 20))
    rows = st.lists
    arm = np.array(draw(rows(st.sampled_from(["left", "right", "stay"]), min_size=n, max_size=n)), dtype=np.str_)
    arm[:2] = "left", "right"
    text = np.array(draw(rows(word, min_size=n, max_size=n)), dtype=np.str_)
    text[0] = "word"  # else the column may be one of numbers or truth values
    return {
        "arm": arm,
        "r": np.array(draw(rows(number, min_size=n, max_size=n))),
        "p": np.array(draw(rows(st.floats(1e-3, 1.0), min_size=n, max_size=n))),
        "x": np.array(draw(rows(number, min_size=n, max_size=n))),
        "ok": np.array(draw(rows(st.booleans(), min_size=n, max_size=n))),
        "text": text,
    }


def log_of(table) -> BanditLog:
    return BanditLog.from_table(table, action="arm", reward="r", propensity="p")


def same(one: BanditLog, other: BanditLog) -> None:
    assert one.labels == other.labels
    assert one.encoding == other.encoding
    for name in ("context", "action", "reward", "propensity"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(("library", "frame"), [("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "table")])
@given(table=tables())
@many
def test_every_container_gives_the_same_log(library, frame, table):
    made = getattr(pytest.importorskip(library), frame)(table)
    same(log_of(made), log_of(table))


def write(path, table: dict[str, np.ndarray]) -> None:
    names, rows = list(table), list(zip(*(column.tolist() for column in table.values()), strict=True))
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([names, *rows])
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    else:
        from pyarrow import parquet

        parquet.write_table(pytest.importorskip("pyarrow").table(table), path)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@given(table=tables())
@many
def test_every_file_format_gives_the_same_table_and_log(ending, table, tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / f"t.{ending}"
    write(path, table)
    found = read_table(path)
    assert list(found) == list(table)
    for name, column in table.items():
        np.testing.assert_array_equal(found[name], column)
    same(log_of(path), log_of(table))
