"""A run's folder as it lies on disk: which files it has, and what they hold; no JAX."""
