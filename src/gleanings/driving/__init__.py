"""Driving: real and generated scenes, an in-graph simulator of many agents, its metrics and its replays.

The public names stand in `__init__.pyi`; each is imported on first use, so that reading and viewing load no jax.
"""

from gleanings.driving._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]
