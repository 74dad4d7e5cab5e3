"""Episodes from tables: what comes next, what ends, what is left out."""

import numpy as np
import pytest

from gleanings.core.errors import ConfigError, DataError
from gleanings.selection import Transitions, modbe, parse_classes
from gleanings.selection.episodes import next_rows

TABLE = {
    "trip": np.array(["a", "b", "a", "b", "a", "c"]),
    "s0": np.array([1.0, 10.0, 2.0, 11.0, 3.0, 20.0]),
    "a": np.array(["go", "stop", "go", "go", "stop", "go"]),
    "r": np.arange(6.0),
    "done": np.array([0, 0, 0, 1, 0, 0]),
}


def read(table=TABLE, **options) -> Transitions:
    return Transitions.from_table(table, **({"action": "a", "reward": "r", "episode": "trip"} | options))


def test_the_next_row_of_a_mingled_episode():
    assert next_rows(np.array([0, 1, 0, 1, 0, 2])).tolist() == [2, 3, 4, -1, -1, -1]


def test_episodes_become_transitions_and_say_what_is_left_out():
    data = read(terminal="done", discount=0.9)
    scale = TABLE["s0"].std()
    assert (data.observation[:, 0] * scale + TABLE["s0"].mean()).round(4).tolist() == [1, 10, 2, 11]
    assert (data.next_observation[:3, 0] * scale + TABLE["s0"].mean()).round(4).tolist() == [2, 11, 3]
    assert data.terminal.tolist() == [False, False, False, True]
    np.testing.assert_allclose(data.continues, [0.9, 0.9, 0.9, 0], rtol=1e-6)
    assert data.initial is not None
    assert data.initial.tolist() == [True, True, False, False]
    assert data.group is not None
    assert data.group.tolist() == [0, 1, 0, 1]
    assert data.labels == ("go", "stop")
    assert data.dropped == "2 of 6 rows left out: cut off without a next observation"


def test_a_cut_in_the_middle_leaves_its_row_out():
    cut = TABLE | {"cut": np.array([1, 0, 0, 0, 0, 0])}
    assert len(read(cut, terminal="done", truncated="cut", observation=["s0"]).reward) == 3


def test_next_columns_need_no_episode_and_drop_nothing():
    table = TABLE | {"next_s0": TABLE["s0"] + 0.5}
    data = Transitions.from_table(table, action="a", reward="r", observation=["s0"], terminal="done")
    assert data.dropped == ""
    assert len(data.reward) == 6
    moved = np.where(data.terminal, 0, 0.5)[:, None]  # what follows an end does not matter
    np.testing.assert_allclose(data.next_observation - data.observation, moved / TABLE["s0"].std(), rtol=1e-5)
    gap = table | {"next_s0": np.where(np.arange(6) == 2, np.nan, table["next_s0"])}
    with pytest.raises(DataError, match="column 's0': 1 rows are not finite, the first ones 2"):
        Transitions.from_table(gap, action="a", reward="r", observation=["s0"], terminal="done")
    assert Transitions.from_table(table, action="a", reward="r", episode="trip", terminal="done").observation.shape == (
        6,
        1,
    )
    with pytest.raises(ConfigError, match="no column 'next_done'"):
        Transitions.from_table(table, action="a", reward="r", episode="trip")


def test_stages_follow_one_another():
    table = {name: TABLE[name][[0, 1, 2, 3]] for name in ("trip", "s0", "a", "r")} | {"t": np.array([0, 0, 1, 1])}
    data = read(table, stage="t", observation=["s0"])
    assert (data.num_stages, data.discount, data.dropped) == (2, 1.0, "")
    assert data.continues.tolist() == [1, 1, 0, 0]
    with pytest.raises(DataError, match="stage: 2 rows are not followed by the next stage of their episode"):
        read(table | {"t": np.array([0, 0, 2, 2])}, stage="t")


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({}, {"episode": None}, ConfigError, "name the column of the episode, or add next_"),
        ({}, {"episode": "tripp"}, ConfigError, "no column 'tripp'; did you mean 'trip'"),
        ({"done": np.array([0, 0, 2, 1, 0, 0])}, {"terminal": "done"}, DataError, "'done': 1 rows are neither 0 nor 1"),
        ({"r": np.full(6, np.inf)}, {}, DataError, "reward: 6 rows are not finite"),
        ({"s0": np.array([np.nan] * 6)}, {}, DataError, "column 's0': 6 values are not finite"),
        ({"a": np.array(["go"] * 6)}, {}, ConfigError, "one action only"),
        ({"t": np.array([0.5] * 6)}, {"stage": "t"}, DataError, "column 't': 6 rows are not a stage"),
        ({}, {"discount": 1.5}, ConfigError, "discount 1.5"),
    ],
)
def test_tables_that_cannot_be_used(change, options, error, message):
    with pytest.raises(error, match=message):
        read(TABLE | change, **options)


def trips(seed: int = 0, episodes: int = 80, length: int = 20) -> dict[str, np.ndarray]:
    """The first column tells which action pays; episodes are cut off after `length` steps."""
    rng = np.random.default_rng(seed)
    s = rng.normal(size=(episodes, length, 3))
    action = rng.integers(0, 2, (episodes, length))
    reward = s[..., 0] * (2 * action - 1) + 0.3 * rng.normal(size=action.shape)
    columns = {f"s{i}": s[..., i].ravel() for i in range(3)}
    return {"trip": np.repeat(np.arange(episodes), length), "a": action.ravel(), "r": reward.ravel(), **columns}


@pytest.mark.parametrize("words", [["constant", "linear:1,all"], ["constant", "linear:1", "rff:16"]])
def test_modbe_finds_the_column_in_a_table_of_episodes(words):
    data = read(trips(), discount=0.5)
    found = modbe(parse_classes(words, data), None, data)
    assert (found.name, found.verdict) == ("linear[1]", "certified")
    fresh = {f"s{i}": np.array([1.0, -1.0]) for i in range(3)}
    assert found.act(fresh).argmax(1).tolist() == [1, 0]


def test_a_network_among_the_classes_of_episodes():
    data = read(trips(episodes=20), discount=0.0)
    assert [c.name for c in parse_classes(["constant", "linear:all", "mlp:4"], data)] == [
        "constant",
        "linear[3]",
        "mlp[4]",
    ]
    with pytest.raises(ConfigError, match="classes rff and mlp: neither contains the other"):
        parse_classes(["rff:8", "mlp:4"], data)
    with pytest.raises(ConfigError, match=r"classes mlp\[4\], linear\[1\]: nested classes must stand in the order"):
        parse_classes(["mlp:4", "linear:1"], data)
