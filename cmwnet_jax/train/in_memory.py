"""Trains without a folder: everything that a run leaves stays in memory. For one process."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from cmwnet_jax.core.types import PyTree
from cmwnet_jax.data.load import Data
from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.methods.measure import Predict
from cmwnet_jax.train import health, parallel
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.chunks import run_chunks
from cmwnet_jax.train.clock import Clock
from cmwnet_jax.train.result import weight_arrays
from cmwnet_jax.train.show import ProgressBar
from cmwnet_jax.train.trainer import Trainer
from cmwnet_jax.train.views import Scaling, scaling_of, standardize
from cmwnet_jax.transfer.array_facts import to_host

_ROWS = 256  # per call of the network in predictions


@dataclasses.dataclass(frozen=True, eq=False)
class Trained:
    """The results of a run in memory; all arrays are NumPy's.

    Attributes:
        predict: (variables, batch of `image`, [n, ...] standardised) -> class probabilities [n, C].
        variables: the variables of the method's own classifier.
        kind: one of `data.kinds.DTYPES`.
        shape: shape of an input.
        vocabulary: number of tokens; 0 for inputs of another kind.
        scaling: how inputs are standardised.
        losses: [epochs] float64, the mean training loss of each epoch.
        files: name -> arrays; `weights` and `predictions`, and of some methods `pseudo_labels`, as in the
            files of these names in a run's folder.
    """

    predict: Predict
    variables: PyTree
    kind: str
    shape: tuple[int, ...]
    vocabulary: int
    scaling: Scaling
    losses: np.ndarray
    files: Mapping[str, Mapping[str, np.ndarray]]

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        """Class probabilities [n, C] float64, whose rows sum to 1.

        Args:
            inputs: [n, ...] of the kind's dtype and the training inputs' shape, not standardised.
        """
        parts = []
        for start in range(0, len(inputs), _ROWS):  # one shape, so that one program serves any n
            part = inputs[start : start + _ROWS]
            filled = np.pad(part, [(0, _ROWS - len(part)), *[(0, 0)] * (part.ndim - 1)])
            chances = _predict(self.predict, self.variables, self.scaling, filled)
            parts.append(np.asarray(chances)[: len(part)])
        values = np.concatenate(parts).astype(np.float64)
        return values / values.sum(axis=1, keepdims=True)


@functools.partial(jax.jit, static_argnums=0)
def _predict(predict, variables, scaling, inputs):
    return predict(variables, {"image": standardize(inputs, scaling)})


def train_in_memory(
    config: ConfigDict, data: Data, model: nn.Module | None = None, *, silent: bool = True
) -> Trained:
    """Trains a config on data that are in memory, without tests and checkpoints.

    Args:
        config: `default_config()` with changes; its section `data` is not read.
        data: the data.
        model: as in `build_recipe`.
        silent: whether to show no progress bar.

    Raises:
        UsageError: the config cannot be used, in general or for these data.
        TrainingDiverged: NaN, infinities or all-zero weights arose.
    """
    check_config(config)
    if model is not None:
        _check_logits(model, data)
    parallel.use_compilation_cache()
    recipe = build_recipe(config, data, model)
    method = recipe.method
    if method.predict is None:
        raise UsageError(f"method is {config.method!r}, which predicts no classes: take another method")
    trainer, losses = Trainer(config, data, recipe), []
    chunks = run_chunks(config, data, method, trainer, parallel.replicate(recipe.state), clock=Clock())
    with ProgressBar(config.method, config.num_epochs, 0, silent=silent) as bar:
        for state, epoch, loss in chunks:  # noqa: B007  (the last state is the result)
            bar.advance(epoch.run_steps_done / epoch.num_steps, loss)
            if epoch.is_over:
                metrics = health.scalar_means(epoch.scalars, epoch.is_meta)
                bar.update({"epoch": epoch.number, **metrics})
                losses.append(metrics["loss"])
    whole = parallel.unreplicate(state)
    health.check_state(whole, epoch.run_steps_done)
    classes = method.meta_classes if method.refitted is None else method.refitted(whole)
    beside, _ = trainer.predict(state, whole=False)
    left = {name.removesuffix(".npz"): contents for name, contents in method.leave(whole).items()}
    (classifier, *_) = method.classifiers(state).values()
    return Trained(
        predict=method.predict,
        variables=to_host(parallel.unreplicate(classifier)),
        kind=data.kind,
        shape=data.image_shape,
        vocabulary=data.source.vocabulary,
        scaling=scaling_of(data.splits["train"], data.source.one_unit),
        losses=np.array(losses),
        files={
            "weights": weight_arrays(data, classes, epoch),
            "predictions": beside._asdict(),
            **({"pseudo_labels": left["pseudo_labels"]} if "pseudo_labels" in left else {}),
        },
    )


def _check_logits(model: nn.Module, data: Data) -> None:
    """Raises a UsageError if a model does not give one logit per class."""
    try:
        shape = jax.eval_shape(
            lambda x: model.init_with_output(jax.random.key(0), x, train=False)[0], data.blank()
        ).shape
    except Exception as error:
        raise UsageError(
            f"module is a {type(model).__name__}, which cannot be applied to {data.blank().shape} "
            f"({first_line(error)}), expected one that maps [n, {', '.join(map(str, data.image_shape))}] to "
            f"logits: change it"
        ) from error
    if shape != (1, data.source.num_classes):
        raise UsageError(
            f"module maps 1 example to outputs of shape {shape}, expected logits of shape "
            f"(1, {data.source.num_classes}), one for each class in y: change its last layer"
        )
