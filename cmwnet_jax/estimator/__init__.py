"""CMW-Net as a scikit-learn classifier: the launcher's training on arrays in memory."""

from cmwnet_jax.estimator.classifier import CMWNetClassifier as CMWNetClassifier
