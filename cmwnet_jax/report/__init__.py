"""Tables and figures, made from run folders only; JAX is never imported here."""

from cmwnet_jax.errors import need

need("launch", "absl", "matplotlib", "rich")
