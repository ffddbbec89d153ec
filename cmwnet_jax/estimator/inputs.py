"""Checks of what the classifier is fitted on, and of what it predicts."""

import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_consistent_length, column_or_1d, validate_data

from cmwnet_jax.data import kinds
from cmwnet_jax.errors import UsageError, first_line, unknown_name
from cmwnet_jax.train.in_memory import Trained

_EXACT_IN_FLOAT32 = (np.float32, np.float16, np.uint8, np.int8, np.uint16, np.int16)
_CHECKS = {kinds.IMAGES: kinds.check_images, kinds.TOKENS: kinds.check_tokens}


def check_training_data(estimator: BaseEstimator, kind: str, X: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    """Checks the training data; notes the number and the names of the columns on the estimator.

    Args:
        estimator: the classifier.
        kind: what X holds; anything that a user may have given.
        X: [N, ...].
        y: [N].

    Returns:
        X in the dtype of its kind, and y with one dimension.

    Raises:
        ValueError: they cannot be used.
    """
    if not isinstance(kind, str) or kind not in kinds.DTYPES:
        raise unknown_name("kind", kind, kinds.DTYPES)
    if kind == kinds.VECTORS:
        X, y = validate_data(estimator, X, y, dtype=(np.float64, *_EXACT_IN_FLOAT32))
        names = getattr(estimator, "feature_names_in_", range(X.shape[1]))
        for note in kinds.rounding_notes((str(name), column) for name, column in zip(names, X.T, strict=True)):
            warnings.warn(note, stacklevel=4)
        X = check_array(X, dtype=np.float32, input_name="X")
    else:
        X, y = validate_data(estimator, _array(kind, X), y, skip_check_array=True)
        check_consistent_length(X, y)
    try:
        check_classification_targets(y)
    except TypeError as error:
        raise UsageError(
            f"y has labels that cannot be sorted ({first_line(error)}), expected one for each example, all of "
            f"one kind: fill in missing ones or take the examples out"
        ) from error
    return X, column_or_1d(y, warn=True)


def _array(kind: str, X: Any) -> np.ndarray:
    """Images or tokens, checked."""
    try:
        array = np.asarray(X)
    except ValueError as error:
        raise UsageError(
            f"X cannot be made an array ({first_line(error)}), expected {kind} of one shape: make all "
            f"alike, e.g. fill short texts up with {kinds.PADDING}"
        ) from error
    return _CHECKS[kind]("X", array)


def check_inputs(estimator: BaseEstimator, run: Trained, X: Any) -> np.ndarray:
    """Checks inputs to predict, and returns them in the dtype of their kind.

    Args:
        estimator: the classifier.
        run: what it has been trained to.
        X: [n, ...].

    Raises:
        ValueError: they cannot be used, or are not like the training inputs.
    """
    if run.kind == kinds.VECTORS:
        return validate_data(estimator, X, dtype=np.float32, reset=False)
    X = _array(run.kind, X)
    if X.shape[1:] != run.shape:
        raise UsageError(
            f"X is of shape {X.shape}, expected {run.kind} of shape {run.shape} each as in fit: make all alike"
        )
    if run.kind == kinds.TOKENS and X.max() >= run.vocabulary:
        raise UsageError(
            f"X has the token {X.max()}, expected at most {run.vocabulary - 1}, the largest in fit: give words "
            f"that fit has not seen the number that unknown words have there"
        )
    return X
