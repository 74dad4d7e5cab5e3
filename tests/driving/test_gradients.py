"""Gradients through whole rollouts: those of differences in float64, finite on every scene, good to learn from."""

from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.driving._random_scenes import REAL, SMALL, family_scenes, real_scene

from gleanings.driving.agents import LogPlayback
from gleanings.driving.config import SimConfig
from gleanings.driving.dynamics import Bicycle, limits_of
from gleanings.driving.families import FAMILIES
from gleanings.driving.scene import Pose, Scene
from gleanings.driving.sim import Simulator
from gleanings.driving.stack import stack_scenes

STEPS = 80
SIM = Simulator(
    SimConfig(controlled="all", metrics=("log_divergence",), follow_ground=False),
    dynamics=Bicycle(),
    agents=LogPlayback(),
)
Loss = Callable[[jax.Array | np.ndarray], tuple[jax.Array, jax.Array]]


def divergence(sim: Simulator, scene: Scene, actions: jax.Array) -> jax.Array:
    """Mean distance to the log over all steps and objects under actions [T', N, 2]."""

    def policy(scene, state, key):
        return actions[state.t - scene.start]

    value, mask = sim.rollout(scene, policy, steps=len(actions), record="metrics").metrics["log_divergence"]
    return jnp.where(mask, value, 0).sum() / mask.sum()


GRADIENT = jax.jit(jax.value_and_grad(divergence, 2), static_argnums=0)


def by_hand(scene: Scene, actions: jax.Array) -> jax.Array:
    """`divergence` of objects that are in the scene at its start, from the model of motion alone, in any precision."""
    first, log = int(scene.start), scene.log
    there = log.valid[first]
    rows = slice(first + 1, first + 1 + len(actions))
    kind = jnp.asarray(scene.objects.kind)
    # The shadow of an object that enters later is not driven here, so that scenes must have none of them.
    target = tuple(jnp.asarray(field[rows], actions.dtype) for field in (log.x, log.y))
    seen = log.valid[rows] & there
    pose = Pose(*(jnp.asarray(np.where(there, field[first], 0), actions.dtype) for field in log[:6]))
    dt = float(scene.dt)

    def step(pose, row):
        action, (x, y), seen = row
        one = jax.vmap(lambda pose, action, kind: Bicycle().forward(pose, action, dt, limits_of(kind)))
        pose = one(pose, action, kind)
        square = (pose.x - x) ** 2 + (pose.y - y) ** 2
        return pose, jnp.where(seen, jnp.sqrt(jnp.where(square > 0, square, 1)) * (square > 0), 0)

    apart = jax.lax.scan(step, pose, (actions, target, jnp.asarray(seen)))[1]
    return apart.sum() / seen.sum()


def actions_for(scene: Scene, steps: int = STEPS, seed: int = 0) -> np.ndarray:
    """Small random accelerations and curvatures [steps, N, 2], within the bounds at 25 m/s."""
    size = (steps, scene.log.x.shape[1], 2)
    return (np.random.default_rng(seed).uniform(-1, 1, size) * [0.5, 0.01]).astype(np.float32)


def present(scene: Scene) -> Scene:
    """The scene without what enters later."""
    valid = scene.log.valid & scene.log.valid[int(scene.start)]
    return scene._replace(log=scene.log._replace(valid=valid))


def assert_differences(loss: Loss, at: np.ndarray, seed: int, h: float = 1e-6, count: int = 4) -> np.ndarray:
    """The gradient, equal to central differences in float64 along `count` random directions to 1e-4.

    loss: a compiled `jax.value_and_grad`.
    """
    with jax.enable_x64(True):
        start = np.asarray(at, np.float64)
        gradient = np.asarray(loss(start)[1])
        assert gradient.dtype == np.float64
        for direction in np.random.default_rng(seed).normal(0, 1, (count, *at.shape)) * [1, 0.02]:
            slope = float(loss(start + h * direction)[0] - loss(start - h * direction)[0]) / (2 * h)
            assert np.isclose((gradient * direction).sum(), slope, rtol=1e-4)
    return gradient


@jax.jit
@jax.value_and_grad
def twenty(actions: jax.Array, speed: float) -> jax.Array:
    """A function of where 20 steps of an object lead, and its gradient."""
    zero = jnp.zeros((), actions.dtype)
    start = Pose(zero, zero, zero, zero + 0.3, speed * jnp.cos(zero + 0.3), speed * jnp.sin(zero + 0.3))

    def step(pose, action):
        return Bicycle().forward(pose, action, 0.1, limits_of(jnp.int32(1))), None

    end = jax.lax.scan(step, start, actions)[0]
    return end.x + 2 * end.y + 3 * end.yaw + 0.5 * end.vx**2 - end.vy


@pytest.mark.parametrize("speed", [0.0, 8.0])
def test_twenty_steps_of_the_bicycle_model_agree_with_differences(speed: float):
    at = np.random.default_rng(1).uniform(-1, 1, (20, 2)) * [1, 0.05]
    at[:, 0] += 1.5  # no object at rest stays there or is driven backwards: k ds has a kink at rest
    for actions in (at, at * [1, 0]):
        assert_differences(lambda actions: twenty(actions, speed), actions, seed=0)


def check(scene: Scene) -> None:
    """Finite everywhere; of the objects present at the start that of float64, which differences confirm."""
    steps = min(STEPS, scene.log.x.shape[0] - 1 - int(scene.start))
    actions, coast = actions_for(scene, steps), np.zeros_like(actions_for(scene, steps))
    for start in (actions, coast):
        loss, gradient = GRADIENT(SIM, scene, start)
        assert np.isfinite(loss)
        assert np.isfinite(gradient).all()
    scene = present(scene)
    loss, gradient = GRADIENT(SIM, scene, actions)
    exact = assert_differences(jax.jit(jax.value_and_grad(lambda x: by_hand(scene, x))), actions, seed=1)
    assert np.linalg.norm(gradient - exact) < 5e-3 * np.linalg.norm(exact)


def test_the_gradient_of_80_steps_is_finite_and_that_of_differences(shared_data: Path):
    check(real_scene(shared_data, SMALL))


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_gradient_is_that_of_differences_on_families(family: str):
    check(family_scenes()[list(FAMILIES).index(family)])


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_the_gradient_is_that_of_differences_on_real_scenes(shared_data: Path, name: str):
    check(real_scene(shared_data, name))


def test_sixty_gradient_steps_unlearn_coasting():
    scenes = stack_scenes(family_scenes("curve", "roundabout", "four_way_stop", "merge"))
    sim = Simulator(
        SimConfig(controlled="sdc", metrics=("log_divergence",), follow_ground=False),
        dynamics=Bicycle(),
        agents=LogPlayback(),
    )
    ego = np.asarray(scenes.objects.is_sdc)
    scale = jnp.asarray([1.0, 0.03])

    def loss(x, scene, ego):
        def policy(scene, state, key):
            return jnp.where(ego[:, None], x[state.t - scene.start] * scale, 0.0)

        value, mask = sim.rollout(scene, policy, steps=STEPS, record="metrics").metrics["log_divergence"]
        return jnp.where(mask & ego, value, 0).sum() / (mask & ego).sum()

    @jax.jit
    @jax.vmap
    def learn(x, scene, ego):
        def step(carry, k):
            x, m, v = carry
            value, g = jax.value_and_grad(loss)(x, scene, ego)
            m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g * g
            rate = 0.3 * 0.5 * (1 + jnp.cos(jnp.pi * k / 60))
            x = x - rate * (m / (1 - 0.9 ** (k + 1))) / (jnp.sqrt(v / (1 - 0.99 ** (k + 1))) + 1e-8)
            return (x, m, v), value

        # The loss of the 61st step is that after 60.
        return jax.lax.scan(step, (x, jnp.zeros_like(x), jnp.zeros_like(x)), jnp.arange(61.0))[1]

    losses = learn(np.zeros((len(ego), STEPS, 2), np.float32), scenes, ego)
    before, after = np.asarray(losses)[:, 0], np.asarray(losses)[:, -1]
    print(before, after)
    assert (before > 0.5).all()
    assert (after < 0.2 * before).all()
