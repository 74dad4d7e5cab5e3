"""What a table may hold, and what makes every value from it doubtful."""

import numpy as np
import pytest

from gleanings.core.errors import ConfigError, DataError
from gleanings.selection import BanditLog, ModBE, Smallest, parse_classes, select_policy
from gleanings.selection.bandit_rules import fold_of, set_apart
from gleanings.selection.policy import repeated_share
from gleanings.selection.propensities import estimate_propensities


def table(n: int = 600, seed: int = 0) -> dict[str, np.ndarray]:
    """The logger prefers `b` where x is large; the reward of `b` is x."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    chance = 1 / (1 + np.exp(-x))
    b = rng.random(n) < chance
    reward = np.where(b, x, 0.2) + 0.3 * rng.normal(size=n)
    p = np.where(b, chance, 1 - chance)
    return {"arm": np.where(b, "b", "a"), "r": reward, "p": p, "x": x, "chance": chance}


def read(columns: dict[str, np.ndarray], **options) -> BanditLog:
    return BanditLog.from_table(columns, **({"action": "arm", "reward": "r", "context": ["x"]} | options))


def alarms(log: BanditLog) -> list[str]:
    return [alarm.name for alarm in select_policy(log, parse_classes(["constant", "linear:all"], log)).alarms]


def test_one_probability_column_for_each_action():
    columns = table()
    each = columns | {"propensity:b": columns["chance"], "propensity:a": 1 - columns["chance"]}
    log = read(each, context=None)
    assert log.encoding is not None
    assert log.encoding.names == ("p", "x", "chance")
    assert log.propensity is not None
    np.testing.assert_allclose(log.propensity, columns["p"])
    with pytest.raises(ConfigError, match="no column 'propensity:a'"):
        read({name: column for name, column in each.items() if name != "propensity:a"})
    with pytest.raises(DataError, match="propensities: 600 rows are not 1 in sum"):
        read(each | {"propensity:a": np.full(600, 0.999)} | {"propensity:b": np.full(600, 0.5)})
    with pytest.raises(DataError, match=r"'propensity:a': 600 rows are not in \[0, 1\]"):
        read(each | {"propensity:a": columns["chance"] + 1})
    third = {"propensity:c": np.zeros(600)}
    log = read(each | third, context=["x"])
    assert log.labels == ("a", "b", "c")
    found = select_policy(log, parse_classes(["constant", "linear:all"], log))
    assert (found.verdict, "never tried" in [alarm.name for alarm in found.alarms]) == ("uncertified", True)


def test_propensities_that_were_not_logged_are_estimated_and_flagged():
    columns = table(3000)
    log = read(columns)
    found = select_policy(log, parse_classes(["constant", "linear:all"], log))
    assert (found.verdict, found.alarms[0].name) == ("uncertified", "propensity")
    assert list(found.value) == ["DR", "SNDR", "DM"]
    truth = np.maximum(columns["x"], 0.2).mean()
    assert abs(found.value["DR"].value - truth) < 4 * found.value["DR"].se + 0.02
    folds = np.arange(3000) % 5
    estimated = estimate_propensities(log.context, log.action, 2, folds)
    assert np.abs(estimated - columns["p"]).mean() < 0.02
    # Not fitted on the row itself: an action that only one fold holds gets next to no probability there.
    rare = np.where(folds == 0, 2, log.action)
    assert estimate_propensities(log.context, rare, 3, folds)[folds == 0].max() < 0.01


def test_text_with_many_values_is_hashed_on_request():
    columns = table(200) | {"page": np.array([f"/{i % 70}" for i in range(200)])}
    with pytest.raises(ConfigError, match=r"'page' has 70 different texts; .* \(--hash 64, buckets=64\)"):
        read(columns, context=["page"])
    log = read(columns, context=["page"], buckets=16)
    assert log.context.shape == (200, 16)
    assert (log.context.sum(1) == 1).all()
    assert (log.context[0] == log.context[70]).all()
    assert log.encoding is not None
    assert log.encoding.transform({"page": np.array(["/new"])}).sum() == 1


def test_copies_of_rows_and_rare_rewards_raise_alarms():
    columns = table()
    again = {name: np.concatenate([column, column[:60]]) for name, column in columns.items()}
    assert alarms(read(columns, propensity="p")) == []
    assert "duplicates" in alarms(read(again, propensity="p"))
    user = np.concatenate([np.arange(600), np.arange(60)])
    assert "duplicates" not in alarms(read(again | {"user": user}, propensity="p", group="user"))
    few = columns | {"x": np.round(columns["x"] > 0), "r": np.round(columns["r"] > 0)}
    assert repeated_share(read(few)) == 0
    rare = columns | {"r": (np.arange(600) % 150 == 0).astype(float)}
    assert "rare reward" in alarms(read(rare, propensity="p"))


def test_a_group_is_never_chosen_on_and_valued_on():
    columns = table(400) | {"user": np.repeat(np.arange(80), 5)}
    log = read(columns, propensity="p", group="user")
    found = select_policy(log, parse_classes(["constant"], log), Smallest(), seed=1)
    assert found.value["DR"].n == 80
    assert isinstance(found.log, BanditLog)
    assert (np.bincount(fold_of(found.log, 5, 2), minlength=5) == 80).all()


@pytest.mark.parametrize("arms", [2, 60])
def test_an_action_with_one_row_and_many_actions(arms):
    rng = np.random.default_rng(1)
    arm = np.concatenate([np.arange(arms), rng.integers(0, arms, 400)])
    columns = {"arm": arm, "r": rng.normal(size=len(arm)), "x": rng.normal(size=len(arm))}
    log = read(columns)
    found = select_policy(log, parse_classes(["constant", "linear:all"], log))
    assert np.isfinite(found.value["DR"].value)
    assert found.act(log.context).shape == (len(arm), arms)


def test_a_table_without_context_has_one_class():
    columns = {name: table()[name] for name in ("arm", "r", "p")}
    log = BanditLog.from_table(columns, action="arm", reward="r", propensity="p")
    assert select_policy(log, parse_classes(["constant"], log)).name == "constant"
    with pytest.raises(ConfigError, match="linear:all: there is no column of the context; use constant"):
        parse_classes(["constant", "linear:all"], log)


def test_new_rows_are_read_as_the_log_was():
    """Codes stay codes, whatever else a new table holds; columns go by name, in every kind of table."""
    rng = np.random.default_rng(0)
    code, age, arm = (
        np.array(["1", "2", "A"])[rng.integers(0, 3, 900)],
        rng.normal(40, 10, 900),
        rng.integers(0, 2, 900),
    )
    reward = np.where(code == "1", 1, -1) * (2 * arm - 1) + 0.1 * rng.normal(size=900)
    columns = {"arm": arm, "r": reward, "p": np.full(900, 0.5), "age": age, "code": code}
    log = read(columns, propensity="p", context=["age", "code"])
    found = select_policy(log, parse_classes(["constant", "linear:all"], log))
    assert found.act({"code": ["1", "2", "A"], "age": [40.0] * 3}).argmax(1).tolist() == [1, 0, 0]
    assert found.act({"age": [20, 60], "code": [1, 2]}).argmax(1).tolist() == [1, 0]
    arrow = pytest.importorskip("pyarrow").table({"code": ["1", "2"], "age": [40.0, 40.0]})
    assert found.act(arrow).argmax(1).tolist() == [1, 0]
    for wrong, message in ((np.zeros((2, 1)), r"shape \(2, 1\); expected \[B, 4\]"), (np.zeros(4), r"shape \(4,\)")):
        with pytest.raises(ConfigError, match=message):
            found.act(wrong)
    with pytest.raises(DataError, match="column 'age' holds text, such as 'old' in row 1"):
        found.act({"code": ["1", "2"], "age": ["30", "old"]})
    with pytest.raises(DataError, match="column 'age': 1 rows are not finite"):
        found.act({"code": ["1"], "age": [np.nan]})


def test_a_column_that_does_not_vary_says_nothing_later():
    columns = table() | {"c": np.full(600, 0.1)}
    log = read(columns, propensity="p", context=["x", "c"])
    found = select_policy(log, parse_classes(["constant", "linear:all"], log))
    here, there = (found.act({"x": [-1.0, 2.0], "c": [c, c]}) for c in (0.1, 0.2))
    assert (here == there).all()


def test_rows_of_a_group_count_as_one():
    columns = {name: np.repeat(column, 10) for name, column in table(300).items()}
    user = np.repeat(np.arange(300), 10)
    classes = ["constant", "linear:all"]
    alone, grouped, copied = (
        select_policy(log, parse_classes(classes, log), Smallest(), seed=1).value["DR"]
        for log in (
            read(table(300), propensity="p"),
            read(columns | {"user": user}, propensity="p", group="user"),
            read(columns, propensity="p"),
        )
    )
    assert grouped.se == pytest.approx(alone.se, rel=0.2)
    assert copied.se < 0.5 * alone.se


def test_what_is_added_to_every_reward_changes_no_choice():
    columns = table()
    log, shifted = read(columns, propensity="p"), read(columns | {"r": columns["r"] + 1e4}, propensity="p")
    one, other = (select_policy(x, parse_classes(["constant", "linear:all"], x)) for x in (log, shifted))
    assert (one.name, one.verdict) == (other.name, other.verdict)
    assert (one.act(log.context) == other.act(log.context)).all()
    assert other.value["DR"].value - one.value["DR"].value == pytest.approx(1e4, abs=1e-3)
    assert one.lift is not None
    assert one.lift.value == pytest.approx(one.value["DR"].value - _logged(one), abs=1e-9)


def _logged(found) -> float:
    unseen = set_apart(found.log, 0.2, 1)
    return float(found.log.reward[unseen].mean())


def test_modbe_is_asked_about_coverage_too():
    """An arm that is never logged where x is large, and that a line wants there."""
    rng = np.random.default_rng(0)
    n = 3000
    x = np.where(rng.random(n) < 0.03, rng.uniform(8, 10, n), rng.uniform(-1, 1, n))
    arm = np.where(x > 5, 0, rng.integers(0, 2, n))
    reward = np.where(arm == 1, np.where(x > 5, -1.0, x), 0.0) + 0.3 * rng.normal(size=n)
    log = read({"arm": arm, "r": reward, "p": np.where(x > 5, 1.0, 0.5), "x": x}, propensity="p")
    found = select_policy(log, parse_classes(["constant", "linear:1"], log), ModBE())
    assert found.name == "linear[1]"
    assert (found.verdict, "coverage" in [alarm.name for alarm in found.alarms]) == ("uncertified", True)


def test_one_class_is_not_certified():
    log = read(table(), propensity="p")
    found = select_policy(log, parse_classes(["linear:all"], log))
    assert (found.verdict, found.alarms[0].name) == ("uncertified", "one class")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": ["x", "r"]}, "column 'r' is in the context and has another part too"),
        ({"context": ["x9:x1"]}, "range x9:x1: it must rise"),
        ({"context": ["x0:x99999999999"]}, "it must rise, by at most 10,000"),
        ({"rows": -5}, "rows -5: at least 1 is needed"),
        ({"buckets": -1}, "-1 buckets"),
    ],
)
def test_options_that_cannot_be_meant(options, message):
    with pytest.raises(ConfigError, match=message):
        read(table(60), **options)


def test_one_wrong_cell_among_numbers_is_named():
    x = table(100)["x"].round(3).astype(str)
    x[7] = "unknown"
    with pytest.raises(DataError, match=r"column 'x' holds numbers in 99\.0% of rows, but 'unknown' in row 7"):
        read(table(100) | {"x": x})
