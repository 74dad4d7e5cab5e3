"""How the tests of this room compile."""

import jax
import pytest


@pytest.fixture
def plain_compilation(request: pytest.FixtureRequest):
    """Compile quickly rather than well where programs run for less time than they compile; not in slow tests."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", request.node.get_closest_marker("slow") is None)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
