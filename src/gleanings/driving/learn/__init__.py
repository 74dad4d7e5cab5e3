"""Learning to drive: demonstrations, imitation, reinforcement and their sum, judged by how hard a scene is.

The public names stand in `__init__.pyi`; each is imported on first use, so that settings load no jax.
"""

from gleanings.driving._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)  # pyright: ignore[reportUnsupportedDunderAll]
