"""CMW-Net in JAX: learn, by meta-gradients, how much each training example should count."""

from cmwnet_jax.errors import UsageError as UsageError
from cmwnet_jax.losses import cross_entropy as cross_entropy
from cmwnet_jax.meta_classes import MetaClasses as MetaClasses
from cmwnet_jax.meta_step import make_meta_step as make_meta_step
from cmwnet_jax.meta_step import make_weighted_step as make_weighted_step
from cmwnet_jax.objectives import classification_meta_loss as classification_meta_loss
from cmwnet_jax.objectives import classification_objective as classification_objective
from cmwnet_jax.types import MetaState as MetaState
from cmwnet_jax.types import Metrics as Metrics
from cmwnet_jax.types import Objective as Objective
from cmwnet_jax.weight_net import WeightNet as WeightNet
from cmwnet_jax.weight_net import weighting_functions as weighting_functions
