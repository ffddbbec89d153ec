"""Data sets, the biases applied to them, and the batches drawn from them."""

from cmwnet_jax.errors import need

need("launch", "PIL", "absl", "grain", "ml_collections", "pyarrow", "rich", "tensorflow_datasets")
