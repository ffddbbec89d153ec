"""Classifiers in Linen, one architecture a file: `module(images, train) -> logits [n, C]`."""

from cmwnet_jax.models.mlp import MLP as MLP

MODELS = {"mlp": MLP}
"""Classifiers by the name that a config has for them."""
