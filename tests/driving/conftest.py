"""The default tests of driving compile without optimisation; the slow ones run the programs that users run."""

from collections.abc import Iterator

import jax
import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Programs of small scenes run for milliseconds but are compiled for seconds, fixtures' ones too."""
    quick = item.get_closest_marker("slow") is None
    jax.config.update("jax_disable_most_optimizations", quick)
    try:
        return (yield)
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
