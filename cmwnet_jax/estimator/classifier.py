"""`CMWNetClassifier`, with scikit-learn's interface."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import linen as nn
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.preprocessing import LabelEncoder
from sklearn.utils.validation import check_is_fitted

from cmwnet_jax.audit.examples import Table, examples_in_memory
from cmwnet_jax.audit.scores import AUTO
from cmwnet_jax.audit.suspects import filled_weights, list_suspects
from cmwnet_jax.data import kinds
from cmwnet_jax.data.in_memory import data_in_memory
from cmwnet_jax.errors import UsageError
from cmwnet_jax.estimator.inputs import check_inputs, check_training_data
from cmwnet_jax.estimator.settings import check_module, make_config
from cmwnet_jax.methods import DEFAULT
from cmwnet_jax.train.in_memory import train_in_memory


class CMWNetClassifier(ClassifierMixin, BaseEstimator):
    """A network that learns how much each training example should count, or any other method here.

    It trains as the launcher does, in memory: inputs are standardised, and programs are cached on disk as
    `python -m cmwnet_jax.train` does. X holds vectors, or images or tokens if `kind` says so. Works in
    pipelines, searches over parameters and cross-validation, and can be pickled; with a module, if the values
    of its fields can (not those of `nn.Dense` itself).

    Args:
        method: one of `cmwnet_jax.methods.METHODS` that takes one label per example.
        hidden: units of each hidden layer, from input to output, of the MLP, and of the bag of embeddings that
            is the model of tokens.
        epochs: number of epochs; the first tenth, at most 10, are plain training unless `config` sets
            `warmup_epochs`.
        batch_size: examples per step; lowered to the number of examples if they are fewer, and to a multiple
            of the devices.
        learning_rate: initial learning rate. The optimiser is SGD with momentum unless `config` says otherwise.
        num_meta_classes: K, the number of meta-classes; lowered to the number of distinct class sizes, since
            K-means could not tell more apart, unless `config` names a weight net (`weight_net.init`), whose K
            it must be.
        module: a Linen module, inputs [n, ...] float32 (tokens: int32) -> logits [n, C], instead of these;
            `hidden` is then unused. It may have a switch for training, e.g. `train` or `deterministic`,
            and may have BatchNorm and dropout.
        kind: what X holds: `vectors`, [N, d] finite numbers; `images`, [N, height, width, 1 or 3] uint8; or
            `tokens`, [N, length] whole numbers, 0 for padding, which are trained on without mixup.
        config: values of further config fields by dotted name, e.g. `{"model.batch_norm": False}`, or
            `{"model.name": "small_cnn", "augment.flip": True}` for images; see
            `python -m cmwnet_jax.train --explain_config`.
        random_state: seed of the parameters and of the batches' order: a whole number, a NumPy `RandomState`,
            or None for NumPy's global one.
        verbose: whether to show a progress bar.

    Attributes:
        classes_: [C] the labels, sorted.
        n_features_in_: d, the number of columns, or the tokens of a text, or the height of an image.
        feature_names_in_: [d] names of the columns, if X had any.
        sample_weight_: [N] float32, the learned weight of each training example, for any trainer; 1 for methods
            that learn none. An example that the last epoch left out, with its last, partial batch, has that of
            the one of like class size whose mean loss is nearest.
        loss_curve_: [epochs] float64, the mean training loss of each epoch (nats).

    Example:
        >>> import cmwnet_jax as cmw
        >>> from sklearn.datasets import load_breast_cancer
        >>> X, y = load_breast_cancer(return_X_y=True)
        >>> given = y.copy()
        >>> given[:40] = 1 - y[:40]  # labels to be found
        >>> classifier = cmw.CMWNetClassifier(hidden=(32,), epochs=20, random_state=0).fit(X, given)
        >>> bool(classifier.score(X, y) > 0.9)
        True
        >>> suspects = classifier.find_suspects(top=40)
        >>> bool((suspects["id"] < 40).mean() > 0.7)
        True
    """

    def __init__(
        self,
        method: str = DEFAULT,
        *,
        hidden: tuple[int, ...] = (256, 256),
        epochs: int = 100,
        batch_size: int = 100,
        learning_rate: float = 0.1,
        num_meta_classes: int = 3,
        module: nn.Module | None = None,
        kind: str = kinds.VECTORS,
        config: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ):
        self.method = method
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.num_meta_classes = num_meta_classes
        self.module = module
        self.kind = kind
        self.config = config
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> "CMWNetClassifier":
        """Trains from new parameters.

        Args:
            X: [N, ...] as `kind` says; vectors are computed with in float32, of which a warning says if that is
                too coarse for a column.
            y: [N] labels of any kind that can be sorted.

        Raises:
            ValueError: X or y cannot be used.
            UsageError: there is one class only, or an argument of the constructor is wrong; a ValueError.
            TrainingDiverged: the losses became NaN or infinite.

        After an error, the classifier is as it was before.
        """
        before = vars(self).copy()
        try:
            return self._fit(X, y)
        except BaseException:
            vars(self).clear()
            vars(self).update(before)
            raise

    def _fit(self, X: Any, y: Any) -> "CMWNetClassifier":
        if not isinstance(self.verbose, bool | int | np.bool_):
            raise UsageError(f"verbose is {self.verbose!r}, expected True or False: leave it out for False")
        X, y = check_training_data(self, self.kind, X, y)
        encoder = LabelEncoder()
        labels = encoder.fit_transform(y)
        if len(encoder.classes_) < 2:
            only = str(encoder.classes_[0])
            raise UsageError(f"y has 1 class, {only!r}, expected at least 2: there is nothing to tell apart")
        names = ("method", "hidden", "epochs", "batch_size", "learning_rate", "num_meta_classes")
        arguments = {name: getattr(self, name) for name in names}
        config = make_config(arguments, self.config, self.random_state, np.bincount(labels), self.kind)
        data = data_in_memory(X, labels, [str(label) for label in encoder.classes_])
        model = None if self.module is None else check_module(self.module)
        run = train_in_memory(config, data, model, silent=not self.verbose)
        self.classes_, self._run = encoder.classes_, run
        self.loss_curve_ = run.losses
        self.sample_weight_ = filled_weights(self._examples().table)
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """Class probabilities, [n, C] float64, columns in the order of `classes_`.

        Args:
            X: [n, ...] as in `fit`.

        Raises:
            ValueError: X cannot be used, or is of another shape than in `fit`.
        """
        check_is_fitted(self)
        return self._run.probabilities(check_inputs(self, self._run, X))

    def predict(self, X: Any) -> np.ndarray:
        """The most likely class of each example, [n] of the labels' dtype.

        Args:
            X: [n, ...] as in `fit`.
        """
        probabilities = self.predict_proba(X)  # before classes_, which there are none of before `fit`
        return self.classes_[np.argmax(probabilities, axis=1)]

    def find_suspects(self, *, top: int | None = None, score: str = AUTO) -> Table:
        """Ranks the training examples by how suspicious their labels are, the most first.

        Args:
            top: the number of examples; None for all.
            score: how labels are ranked, as in `cmwnet_jax.find_suspects`.

        Returns:
            The columns of `cmwnet_jax.find_suspects`; `id` is the row of X, and `given` and `suggested` are the
            labels as text.

        Raises:
            UsageError: `top` is less than 1 or `score` unknown.
        """
        check_is_fitted(self)
        return list_suspects(self._examples(), top, score)

    def _examples(self):
        return examples_in_memory(self._run.files, [str(label) for label in self.classes_])
