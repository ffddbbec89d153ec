"""Biases of a data set: pure, seeded functions from labels to biased labels that remember the true ones.

Each function takes a `BiasedLabels` and returns a new one, so biases compose: first remove examples, then
flip labels. `apply` does this by name. Candidate sets (partial labels) come last.
"""

from cmwnet_jax.data.bias.few_labels import balanced_subset as balanced_subset
from cmwnet_jax.data.bias.few_labels import few_labels as few_labels
from cmwnet_jax.data.bias.human import human_labels as human_labels
from cmwnet_jax.data.bias.imbalance import long_tail as long_tail
from cmwnet_jax.data.bias.imbalance import subset as subset
from cmwnet_jax.data.bias.labels import BiasedLabels as BiasedLabels
from cmwnet_jax.data.bias.labels import Seed as Seed
from cmwnet_jax.data.bias.names import apply as apply
from cmwnet_jax.data.bias.names import needs as needs
from cmwnet_jax.data.bias.noise import asymmetric_noise as asymmetric_noise
from cmwnet_jax.data.bias.noise import flip_matrix as flip_matrix
from cmwnet_jax.data.bias.noise import symmetric_noise as symmetric_noise
from cmwnet_jax.data.bias.noise import transition_noise as transition_noise
from cmwnet_jax.data.bias.noise import uniform_noise as uniform_noise
from cmwnet_jax.data.bias.open_set import ForeignSet as ForeignSet
from cmwnet_jax.data.bias.open_set import open_set as open_set
from cmwnet_jax.data.bias.open_set import shown_images as shown_images
from cmwnet_jax.data.bias.partial import binomial_candidates as binomial_candidates
from cmwnet_jax.data.bias.partial import most_confident as most_confident
from cmwnet_jax.data.bias.partial import pair_candidates as pair_candidates
from cmwnet_jax.data.bias.partial import partial_labels as partial_labels
from cmwnet_jax.data.bias.partial import with_candidates as with_candidates
from cmwnet_jax.data.bias.pmd import pmd_noise as pmd_noise
from cmwnet_jax.data.bias.pmd import pmd_noise_plc as pmd_noise_plc
from cmwnet_jax.data.bias.similar import ASYMMETRIC_FLIPS as ASYMMETRIC_FLIPS
