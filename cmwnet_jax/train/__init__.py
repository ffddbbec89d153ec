"""The launcher: trains a config and writes a run's folder."""

from cmwnet_jax.errors import need

need("launch", "absl", "matplotlib", "ml_collections", "orbax", "rich", "tensorboardX")
