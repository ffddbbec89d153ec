"""tfds builders for data sets that tfds does not have; importing one registers it."""

from cmwnet_jax.data.builders import digits as digits
