"""Dynamics: exact inverses, arcs against Runge-Kutta, bounds, and gradients that stay finite at rest."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.core.errors import ConfigError
from gleanings.driving.dynamics import (
    Bicycle,
    DeltaGlobal,
    DeltaLocal,
    Discrete,
    StateTarget,
    along,
    largest_curvature,
    limits_of,
    wrap,
)
from gleanings.driving.raw import Kind
from gleanings.driving.scene import Pose

FAMILY = [Bicycle(), DeltaLocal(), DeltaGlobal(), StateTarget(), Discrete(), Discrete(DeltaLocal(), (13, 5, 9))]
NAMES = ["bicycle", "local", "global", "target", "discrete", "discrete-local"]
CONTINUOUS = FAMILY[:4]
DT = 0.1
every = pytest.mark.parametrize("dynamics", FAMILY, ids=NAMES)


def poses(rng: np.random.Generator, n: int, dtype: type = np.float64, spread: float = 300.0) -> Pose:
    """Random poses; velocity along the heading, up to 25 m/s, some in reverse."""
    x, y, yaw = rng.uniform(-spread, spread, n), rng.uniform(-spread, spread, n), rng.uniform(-math.pi, math.pi, n)
    v = rng.uniform(-5, 25, n)
    return Pose(*(jnp.asarray(a, dtype) for a in (x, y, np.zeros(n), yaw, v * np.cos(yaw), v * np.sin(yaw))))


def limits(n: int, kind=1):
    return limits_of(jnp.full(n, kind))


@partial(jax.jit, static_argnums=0)
def bounds(dynamics, pose: Pose, kind=1):
    return jax.vmap(dynamics.bounds, (0, None, 0))(pose, DT, limits(len(pose.x), kind))


def draw(rng: np.random.Generator, dynamics, pose: Pose, kind: int = 1):
    """Actions spread over the bounds of each pose."""
    n = len(pose.x)
    low, high = bounds(dynamics, pose, kind)
    share = rng.uniform(0, 1, (n, dynamics.size))
    if dynamics.integer:
        return jnp.asarray(np.floor(share * (np.asarray(high) + 1)), jnp.int32)
    if isinstance(dynamics, StateTarget):
        return jnp.stack([pose.x + 1, pose.y - 1, wrap(pose.yaw + 0.1), pose.vx, pose.vy + 1], 1)
    return (low + share * (high - low)).astype(pose.x.dtype)


@partial(jax.jit, static_argnums=0)
def forward(dynamics, pose: Pose, action, kind=1) -> Pose:
    return jax.vmap(dynamics.forward, (0, 0, None, 0))(pose, action, DT, limits(len(pose.x), kind))


@partial(jax.jit, static_argnums=0)
def inverse(dynamics, pose: Pose, target: Pose, kind=1):
    return jax.vmap(dynamics.inverse, (0, 0, None, 0))(pose, target, DT, limits(len(pose.x), kind))


@pytest.mark.parametrize("kind", list(Kind)[1:])
@pytest.mark.parametrize("dynamics", CONTINUOUS, ids=NAMES[:4])
def test_inverse_undoes_forward_in_double_precision(dynamics, kind):
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        pose = poses(rng, 2000)
        action = np.asarray(draw(rng, dynamics, pose, int(kind)))
        found = np.asarray(inverse(dynamics, pose, forward(dynamics, pose, action, int(kind)), int(kind)))
        assert found.dtype == np.float64
        if isinstance(dynamics, Bicycle):
            ds = np.asarray(along(pose)) * DT + action[:, 0] * DT**2 / 2
            reached = (np.abs(ds) > 0.01) & (np.abs(action[:, 1] * ds) < 2)
            assert reached.mean() > 0.7
            action, found = action[reached], found[reached]
        assert np.abs(found - action).max() < 1e-9


@pytest.mark.parametrize("dynamics", CONTINUOUS, ids=NAMES[:4])
def test_inverse_undoes_forward_in_single_precision(dynamics):
    rng = np.random.default_rng(1)
    pose = poses(rng, 2000, np.float32)
    action = draw(rng, dynamics, pose)
    found = inverse(dynamics, pose, forward(dynamics, pose, action))
    action = np.asarray(action)
    error = np.abs(np.asarray(found) - action)
    if isinstance(dynamics, Bicycle):
        error = error[np.abs(np.asarray(along(pose)) * DT + action[:, 0] * DT**2 / 2) > 0.3]
    assert error.max() < 2e-2


@every
def test_a_discrete_or_continuous_inverse_is_a_fixed_point(dynamics):
    rng = np.random.default_rng(2)
    pose = poses(rng, 500, np.float32, 10.0)
    target = forward(Bicycle(), pose, draw(rng, Bicycle(), pose))
    action = inverse(dynamics, pose, target)
    assert action.dtype == (jnp.int32 if dynamics.integer else jnp.float32)
    low, high = (np.asarray(bound) for bound in bounds(dynamics, pose))
    assert np.all((np.asarray(action) >= low) & (np.asarray(action) <= high))
    again = jax.device_get(forward(dynamics, pose, action))
    assert all(np.isfinite(field).all() for field in again)
    assert np.all((again.yaw > -3.14160) & (again.yaw < 3.14160))


@every
def test_the_null_action_keeps_speed_and_heading(dynamics):
    rng = np.random.default_rng(3)
    pose = poses(rng, 200, np.float32)
    null = jax.jit(jax.vmap(dynamics.null, (0, None, 0)))(pose, DT, limits(200))
    after = forward(dynamics, pose, null)
    assert np.allclose(wrap(after.yaw - pose.yaw), 0, atol=1e-6)
    if dynamics is not FAMILY[-1]:  # displacements on a coarse grid
        assert np.allclose(after.x, pose.x + pose.vx * DT, atol=1e-3)
        assert np.allclose(after.vx, pose.vx, atol=1e-3)


@every
def test_equal_members_are_equal_and_hash_alike(dynamics):
    again = Discrete(dynamics.inner, dynamics.bins) if isinstance(dynamics, Discrete) else type(dynamics)()
    assert again == dynamics
    assert hash(again) == hash(dynamics)
    assert not jax.tree.leaves(dynamics)


@pytest.mark.parametrize("dynamics", CONTINUOUS, ids=NAMES[:4])
def test_gradients_are_finite_at_rest_and_on_straight_lines(dynamics):
    speed, ahead = jnp.asarray([0.0, 0.0, 5.0, 0.0, 3.0]), jnp.asarray([0.0, 1e-9, 0.5, -0.1, 0.0])
    zero = jnp.zeros(5)
    pose = Pose(zero + 1, zero + 2, zero, zero, speed, zero)

    def loss(pose: Pose, target: Pose):
        action = inverse(dynamics, pose, target)
        return jnp.sum(action) + sum(jnp.sum(field) for field in forward(dynamics, pose, action))

    def direct(action):
        return sum(jnp.sum(field) for field in forward(dynamics, pose, action))

    grads = jax.tree.leaves(jax.jit(jax.grad(loss, (0, 1)))(pose, pose._replace(x=pose.x + ahead)))
    grads.append(jax.jit(jax.grad(direct))(jnp.zeros((5, dynamics.size))))
    assert all(bool(jnp.isfinite(grad).all()) for grad in grads)


def test_the_arc_agrees_with_runge_kutta():
    rng = np.random.default_rng(4)
    with jax.enable_x64(True):
        pose = poses(rng, 100)
        action = np.array(draw(rng, Bicycle(), pose))
        action[:10, 1] = 0.0
        after = forward(Bicycle(), pose, jnp.asarray(action))
        state = np.stack([pose.x, pose.y, pose.yaw, along(pose)])
        a, k = action.T

        def rate(s):
            return np.stack([s[3] * np.cos(s[2]), s[3] * np.sin(s[2]), s[3] * k, a])

        h = DT / 1000
        for _ in range(1000):
            k1 = rate(state)
            k2 = rate(state + h / 2 * k1)
            k3 = rate(state + h / 2 * k2)
            k4 = rate(state + h * k3)
            state = state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        assert np.abs(state[0] - after.x).max() < 1e-9
        assert np.abs(state[1] - after.y).max() < 1e-9
        assert np.abs(np.sin(state[2] - np.asarray(after.yaw))).max() < 1e-9
        assert np.abs(state[3] - np.asarray(along(after))).max() < 1e-9


def test_gradients_of_a_rollout_agree_with_central_differences():
    with jax.enable_x64(True):
        start = Pose(*(jnp.asarray(a) for a in (0.0, 0.0, 0.0, 0.3, 6.0, 1.8)))
        rng = np.random.default_rng(5)
        actions = rng.uniform([-1, -0.05], [1, 0.05], (20, 2))
        one = limits_of(jnp.asarray(1))

        def loss(actions):
            def body(pose, action):
                pose = Bicycle().forward(pose, action, DT, one)
                return pose, (pose.x - 3) ** 2 + (pose.y - 1) ** 2

            return jax.lax.scan(body, start, actions)[1].sum()

        value, h = jax.jit(jax.value_and_grad(loss)), 1e-5
        grad = np.asarray(value(actions)[1])
        for index in np.ndindex(actions.shape):
            move = np.zeros_like(actions)
            move[index] = h
            difference = float(value(actions + move)[0] - value(actions - move)[0]) / (2 * h)
            assert abs(difference - grad[index]) < 1e-4 * max(abs(difference), 1.0)


@pytest.mark.parametrize(
    ("kind", "v", "low", "high", "curvature"),
    [
        (Kind.VEHICLE, 0.0, -8, 4, 0.22),
        (Kind.VEHICLE, 20.0, -8, 4, 0.025),
        (Kind.CYCLIST, 1.0, -6, 3, 0.6),
        (Kind.PEDESTRIAN, 1.0, -4, 4, 3.0),
        (Kind.OTHER, 0.5, -8, 4, 3.0),
    ],
)
def test_limits_by_kind_and_speed(kind, v, low, high, curvature):
    pose = Pose(*(jnp.asarray(a) for a in (0.0, 0.0, 0.0, 0.0, v, 0.0)))
    one = limits_of(jnp.asarray(int(kind)))
    assert np.allclose(Bicycle().bounds(pose, DT, one), [[low, -curvature], [high, curvature]])
    assert np.allclose(Bicycle().clip(pose, jnp.asarray([100.0, -100.0]), DT, one), [high, -curvature])
    assert np.isclose(largest_curvature(v, one), curvature)


@pytest.mark.parametrize("dynamics", FAMILY[1:3], ids=NAMES[1:3])
def test_displacements_reach_as_far_at_long_steps(dynamics):
    pose = Pose(*(jnp.asarray(a) for a in (0.0, 0.0, 0.0, 0.0, 20.0, 0.0)))
    one = limits_of(jnp.asarray(1))
    for dt in (0.1, 0.5):
        low, high = dynamics.bounds(pose, dt, one)
        assert np.allclose([low, high], np.outer([-1, 1], [60 * dt, 60 * dt, math.pi]))
    assert np.allclose(dynamics.clip(pose, dynamics.null(pose, 0.5, one), 0.5, one), [10, 0, 0])


def test_bins_lie_as_stated():
    pose = Pose(*(jnp.asarray(a) for a in (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)))
    one = limits_of(jnp.asarray(1))
    model = Discrete(Bicycle(), (3, 5))
    decode = jax.jit(jax.vmap(lambda i: model.decode(pose, i, DT, one)))
    encode = jax.jit(jax.vmap(lambda u: model.encode(pose, u, DT, one)))
    values = np.asarray(decode(np.arange(15, dtype=np.int32)[:, None]))
    expected = [(a, k) for a in (-8, 0, 4) for k in (-0.22, -0.11, 0, 0.11, 0.22)]
    assert np.allclose(values, expected)
    assert encode(values)[:, 0].tolist() == list(range(15))
    assert int(model.null(pose, DT, one)[0]) == 7
    assert np.array_equal(values[7], [0, 0])
    assert encode(np.float32([[1.9, -0.16], [2.1, -0.17]]))[:, 0].tolist() == [6, 10]


@pytest.mark.parametrize(
    ("inner", "bins"), [(Bicycle(), (12, 21)), (Bicycle(), (13,)), (Bicycle(), (1, 1)), (StateTarget(), (3,) * 5)]
)
def test_bins_that_cannot_be_are_refused(inner, bins):
    with pytest.raises(ConfigError, match="Discrete"):
        Discrete(inner, bins)


def test_angles_wrap_to_the_half_open_interval():
    angles = jnp.asarray([0.0, math.pi, -math.pi, 3 * math.pi, 7.0, -7.0])
    assert np.allclose(wrap(angles), [0, math.pi, math.pi, math.pi, 7 - 2 * math.pi, 2 * math.pi - 7], atol=1e-5)
