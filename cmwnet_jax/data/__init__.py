"""Data sets, the biases put on them, and the batches taken from them."""
