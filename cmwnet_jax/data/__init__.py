"""Data sets, the biases applied to them, and the batches drawn from them."""
