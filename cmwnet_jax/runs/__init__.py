"""Run folders on disk: names, contents and checks of their files; does not import JAX."""

from cmwnet_jax.errors import need

need("launch", "ml_collections")
