"""Projection on sampled paths and points along them, against a search over finely cut paths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gleanings.driving.path import path_point, project_on_path, wrap_arc

F = jnp.float32
PROJECT = jax.jit(project_on_path)


def curve(size: int = 257) -> tuple[np.ndarray, np.ndarray]:
    """A winding path, a metre from sample to sample."""
    heading = 0.8 * np.sin(np.arange(size) / 18.0)
    x, y = (np.concatenate([[0.0], np.cumsum(f(heading[:-1]))]) for f in (np.cos, np.sin))
    return x.astype(np.float32), y.astype(np.float32)


def fine(x: np.ndarray, y: np.ndarray, low: float, high: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    arc = np.linspace(max(low, 0.0), min(high, len(x) - 1), 20001)
    return arc, np.interp(arc, np.arange(len(x)), x), np.interp(arc, np.arange(len(y)), y)


@pytest.mark.parametrize("seed", range(8))
def test_the_nearest_point_within_the_window(seed: int):
    rng = np.random.default_rng(seed)
    x, y = curve()
    true = rng.uniform(3, 240)
    at = rng.normal(0, 2, 2) + np.array([np.interp(true, np.arange(257), c) for c in (x, y)])
    hint = true + rng.uniform(-6, 6)
    arc, away = PROJECT(F(x), F(y), F(256), jnp.bool_(False), F(at[0]), F(at[1]), F(hint))
    arcs, px, py = fine(x, y, hint - 15, hint + 15)
    distance = np.hypot(px - at[0], py - at[1])
    assert float(away) == pytest.approx(distance.min(), abs=2e-3)
    assert float(arc) == pytest.approx(arcs[distance.argmin()], abs=0.02)


@pytest.mark.parametrize(("x", "arc", "away"), [(-7.0, 0.0, 7.0), (300.0, 256.0, 44.0)])
def test_beyond_the_ends(x: float, arc: float, away: float):
    line = jnp.arange(257, dtype=jnp.float32)
    hint = 0.0 if x < 0 else 256.0
    found = PROJECT(line, jnp.zeros(257), F(256), jnp.bool_(False), F(x), F(0), F(hint))
    assert tuple(map(float, found)) == pytest.approx((arc, away), abs=1e-5)


def test_a_loop_is_followed_round_and_round():
    length, radius = 150.0, 150.0 / (2 * np.pi)
    samples = np.arange(257) / radius
    x, y = (radius * f(samples) for f in (np.cos, np.sin))
    hint, made = F(0.0), np.arange(0, 460, 1.3)
    for way in made:
        at = way / radius
        args = (F(radius * np.cos(at)), F(radius * np.sin(at)))
        hint, away = PROJECT(F(x), F(y), F(length), jnp.bool_(True), *args, hint)
        assert abs(float(hint) - way) < 0.02 * (1 + way / length)  # a round of chords is shorter than one of arcs
        assert float(away) < 0.02


def test_the_other_limb_of_a_hairpin_is_not_taken():
    """Two limbs 4 m apart: a point nearer to the far one stays on its own."""
    x = np.concatenate([np.arange(100), np.full(4, 99.5), np.arange(99, 0, -1)]).astype(np.float32)
    y = np.concatenate([np.zeros(100), np.arange(0.5, 4.0, 1), np.full(99, 4.0)]).astype(np.float32)
    pad = np.full(257 - len(x), x[-1]), np.full(257 - len(y), y[-1])
    x, y = (np.concatenate([a, b]).astype(np.float32) for a, b in zip((x, y), pad, strict=True))
    arc, away = PROJECT(F(x), F(y), F(203), jnp.bool_(False), F(40), F(3.0), F(41))
    assert (float(arc), float(away)) == pytest.approx((40.0, 3.0), abs=1e-4)


def test_points_along_paths():
    x, y = curve()
    arc = np.sort(np.random.default_rng(0).uniform(2, 250, (1, 40))).astype(np.float32)
    z = np.linspace(0, 5, 257, dtype=np.float32)
    point = path_point(*(jnp.asarray(c)[None] for c in (x, y, z)), jnp.asarray(arc))
    whole = np.arange(257)
    assert np.allclose(point.x, np.interp(arc, whole, x), atol=1e-4)
    assert np.allclose(point.y, np.interp(arc, whole, y), atol=1e-4)
    assert np.allclose(point.z, np.interp(arc, whole, z), atol=1e-5)
    ahead, behind = (np.stack([np.interp(arc + d, whole, c) for c in (x, y)]) for d in (0.5, -0.5))
    way = ahead - behind
    cosine = (way[0] * point.tx + way[1] * point.ty) / np.hypot(*way)
    assert np.all(np.asarray(cosine) > 0.9995)
    assert np.allclose(np.hypot(point.tx, point.ty), 1.0, atol=1e-6)


def test_arcs_of_closed_paths_wrap():
    arc = wrap_arc(F([-3.0, 5.0, 25.0]), F(20.0), jnp.array([True, True, True]))
    assert np.allclose(arc, [17.0, 5.0, 5.0])
    assert np.allclose(wrap_arc(F([-3.0, 25.0]), F(20.0), jnp.bool_(False)), [-3.0, 25.0])
