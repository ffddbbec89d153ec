"""The scikit-learn classifier: scikit-learn's own checks, the audit of a run as oracle, and bad input."""

import pickle
import warnings

import flax.linen as nn
import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from test_mistakes import net_with

import cmwnet_jax as cmw
from cmwnet_jax.core.objectives import TRAIN_SWITCHES
from cmwnet_jax.errors import UsageError
from cmwnet_jax.estimator.inputs import check_training_data
from cmwnet_jax.estimator.settings import check_module, make_config
from cmwnet_jax.methods.fields import value_of
from cmwnet_jax.train.loop import train

TINY = {"hidden": (8,), "batch_size": 8, "epochs": 2, "random_state": 0}
ARGUMENTS = {**TINY, "method": "cmwnet", "learning_rate": 0.1, "num_meta_classes": 3}
RNG = np.random.default_rng(0)
Y = np.array([*"a" * 6, *"b" * 8, *"c" * 10])
X = RNG.normal(size=(24, 3)) + 3 * (Y[:, None] == [*"abc"])


@pytest.fixture(scope="module")
def fitted():
    return cmw.CMWNetClassifier(**TINY).fit(X, Y)


@pytest.mark.whole_runs
@estimator_checks.parametrize_with_checks([cmw.CMWNetClassifier(**TINY, method="erm")])
def test_all_of_scikit_learns_checks(estimator, check):
    """With the method that compiles fastest: what is checked is around the training."""
    check(estimator)


@pytest.mark.slow
@estimator_checks.parametrize_with_checks([cmw.CMWNetClassifier(**TINY)])
def test_all_of_scikit_learns_checks_with_the_default_method(estimator, check):
    check(estimator)


TRAIN_NOTHING = (
    estimator_checks.check_classifiers_one_label,
    estimator_checks.check_classifiers_regression_target,
    estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimators_unfitted,
    estimator_checks.check_fit1d,
    estimator_checks.check_fit2d_1sample,
    estimator_checks.check_mixin_order,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_requires_y_none,
)
TRAIN = (
    estimator_checks.check_classifiers_classes,
    estimator_checks.check_fit2d_1feature,
    estimator_checks.check_methods_subset_invariance,
)


@pytest.mark.parametrize(
    "check",
    [*TRAIN_NOTHING, *(pytest.param(check, marks=pytest.mark.whole_runs) for check in TRAIN)],
    ids=lambda check: check.__name__,
)
def test_some_of_scikit_learns_checks_with_the_default_method(check):
    check("CMWNetClassifier", cmw.CMWNetClassifier(**TINY))


def test_suspects_and_predictions_are_those_of_a_run_on_the_same_arrays(fitted, tmp_path):
    arrays = {"train_x": X.astype(np.float32), "train_y": Y, "test_x": X.astype(np.float32), "test_y": Y}
    np.savez(tmp_path / "own.npz", **arrays)
    arguments = {name: value for name, value in ARGUMENTS.items() if name != "random_state"}
    config = make_config(arguments, None, 0, np.array([6, 8, 10]))
    config.data.raw_dir = str(tmp_path / "own.npz")
    train(config, tmp_path / "run")

    expected, table = cmw.find_suspects(tmp_path / "run"), fitted.find_suspects()
    assert list(table) == list(expected)
    expected["id"] = expected["id"].astype(int)  # there, rows are named by digits
    for name in table:
        np.testing.assert_array_equal(table[name], expected[name], err_msg=name)
    assert len(fitted.find_suspects(top=2)["rank"]) == 2
    by_row = table["weight"][np.argsort(table["id"])]
    np.testing.assert_array_equal(fitted.sample_weight_, by_row)

    with np.load(tmp_path / "run" / "evaluation.npz") as tested:
        assert fitted.predict(X).tolist() == fitted.classes_[tested["predictions"]].tolist()
        assert fitted.score(X, Y) == np.mean(tested["predictions"] == tested["labels"])
        np.testing.assert_allclose(fitted.predict_proba(X).max(axis=1), tested["confidence"], rtol=1e-6)


def test_a_fitted_classifier_is_pickled_and_fitted_again_alike(fitted):
    before = fitted.predict_proba(X)
    copy = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copy.predict_proba(X), before)
    np.testing.assert_array_equal(copy.find_suspects()["score"], fitted.find_suspects()["score"])
    np.testing.assert_array_equal(clone(fitted).fit(X, Y).predict_proba(X), before)
    other = clone(fitted).set_params(random_state=1).fit(X, Y)
    assert not np.array_equal(other.predict_proba(X), before)
    assert fitted.loss_curve_.shape == (2,)
    np.testing.assert_allclose(before.sum(axis=1), 1, rtol=1e-12)


def test_an_examples_prediction_does_not_depend_on_the_others(fitted):
    many = np.tile(X, (30, 1))  # more than one call of the network
    np.testing.assert_array_equal(fitted.predict_proba(many)[-24:], fitted.predict_proba(X))
    np.testing.assert_array_equal(fitted.predict_proba(X[3:4])[0], fitted.predict_proba(X)[3])


def test_it_works_in_pipelines_searches_and_cross_validation():
    pipeline = make_pipeline(StandardScaler(), cmw.CMWNetClassifier(**TINY, method="erm"))
    half = [(np.arange(0, 24, 2), np.arange(1, 24, 2))]
    sizes = {"cmwnetclassifier__batch_size": [np.int64(4), 8]}
    search = GridSearchCV(pipeline, sizes, cv=half).fit(X, Y)
    assert search.cv_results_["mean_test_score"].max() > 0.5
    assert set(search.predict(X)) <= {*"abc"}
    out_of_fold = cross_val_predict(search.best_estimator_, X, Y, cv=2, method="predict_proba")
    assert out_of_fold.shape == (24, 3)


class Dropping(nn.Module):
    """A user's own network, with another switch than `train`."""

    outputs: int = 3
    widths: tuple[int, ...] | list[int] = (6,)

    @nn.compact
    def __call__(self, x, deterministic):
        for width in self.widths:
            x = nn.Dropout(0.5, deterministic=deterministic)(nn.relu(nn.Dense(width)(x)))
        return nn.Dense(self.outputs)(x)


def test_any_linen_module_is_trained():
    own = cmw.CMWNetClassifier(**TINY, method="erm", module=Dropping()).fit(X, Y)
    np.testing.assert_array_equal(own.predict_proba(X), own.predict_proba(X))
    params = own._run.variables["params"]["module"]
    assert params["Dense_0"]["kernel"].shape == (3, 6)
    assert isinstance(params["Dense_0"]["kernel"], np.ndarray)
    assert own.sample_weight_.tolist() == [1] * 24
    assert pickle.loads(pickle.dumps(own)).predict(X).tolist() == own.predict(X).tolist()


@pytest.mark.parametrize(
    ("switch", "field", "message"),
    [
        (
            "use_dropout",
            None,
            "module: the model has an argument 'use_dropout', .*: give its __call__ an argument train",
        ),
        (
            "deterministic",
            True,
            "module: Net.deterministic is True, which is evaluation, .*: give its __call__ an",
        ),
    ],
)
def test_a_module_that_would_stay_in_evaluation_mode_is_refused(switch, field, message, monkeypatch):
    monkeypatch.setitem(TRAIN_SWITCHES, "use_dropout", True)
    module = net_with(switch, field)
    monkeypatch.undo()
    with pytest.raises(cmw.UsageError, match=message):
        check_module(module)


def test_a_module_without_a_switch_needs_none():
    wrapped = check_module(nn.Dense(3))
    assert wrapped.init_with_output(jax.random.key(0), X, train=True)[0].shape == (24, 3)
    assert check_module(wrapped) is wrapped


IMAGES = (40 * (Y[:, None, None, None] == [*"abc"]) + RNG.integers(200, size=(24, 5, 4, 3))).astype(np.uint8)
TOKENS = np.where(np.arange(6) < RNG.integers(2, 7, size=(24, 1)), RNG.integers(1, 9, size=(24, 6)), 0)


class Flat(nn.Module):
    """A user's own network of images."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(x.reshape(len(x), -1))


@pytest.mark.parametrize(
    ("kind", "inputs", "module"),
    [("images", IMAGES, Flat()), ("tokens", TOKENS, None)],
    ids=["images", "tokens"],
)
def test_images_and_tokens_are_taken_by_name_alone(kind, inputs, module):
    """Their predictions in `fit` are the launcher's; `predict_proba` makes them anew."""
    own = cmw.CMWNetClassifier(**TINY, method="erm", kind=kind, module=module).fit(inputs, Y)
    chances, labels = own.predict_proba(inputs), np.searchsorted(own.classes_, Y)
    left = own._run.files["predictions"]
    np.testing.assert_allclose(chances[np.arange(24), labels], left["given_probability"], rtol=1e-5)
    np.testing.assert_allclose(chances[np.arange(24), left["other"]], left["other_probability"], rtol=1e-5)
    assert own.predict(inputs).tolist() == own.classes_[np.argmax(chances, axis=1)].tolist()
    assert own.score(inputs, Y) == np.mean(own.predict(inputs) == Y)
    table = own.find_suspects()
    suggested = own.classes_[left["other"]]
    assert table["suggested"].tolist() == suggested[table["id"]].tolist() and len(own.sample_weight_) == 24
    with pytest.raises(UsageError, match=f"expected {kind} of shape .* each as in fit"):
        own.predict(inputs[:, :-1])
    if kind == "tokens":
        with pytest.raises(UsageError, match="X has the token 9, expected at most 8, the largest in fit"):
            own.predict(inputs + (inputs == 8))


@pytest.mark.filterwarnings("ignore:the class sizes take only")
@pytest.mark.parametrize("rows", [Y != "c", Y == Y], ids=["two classes", "three of one size"])
def test_a_learned_weight_net_keeps_its_k(rows):
    """Of two classes, or of one size, K-means would leave fewer."""
    init = {"weight_net.init": "zoo:fashion_mnist_asymmetric_60", "weight_net.frozen": True}
    fitted = cmw.CMWNetClassifier(**TINY, config=init).fit(X[rows], Y[rows])
    assert np.ptp(fitted.sample_weight_) > 0


def test_what_does_not_fit_small_data_is_lowered():
    arguments = {**ARGUMENTS, "batch_size": 100, "epochs": 35}
    del arguments["random_state"]
    config = make_config(arguments, {"optimizer.momentum": 0.5}, np.random.RandomState(0), np.array([3, 4, 4]))
    assert (config.batch_size, config.weight_net.num_meta_classes, config.warmup_epochs) == (8, 2, 3)
    assert config.optimizer.momentum == 0.5
    assert make_config(arguments, {"warmup_epochs": 9}, 5, np.array([3, 4, 4])).warmup_epochs == 9
    for method, field in (("cmwnet_sl", "mixup_alpha"), ("dividemix", "dividemix.mixup_alpha")):
        sizes, own = np.array([3, 4, 4]), {**arguments, "method": method}
        found = [value_of(make_config(own, None, 0, sizes, kind), field) for kind in ("tokens", "vectors")]
        assert found[0] == 0 and found[1] > 0
    rows = [0, 1, 2, 6]  # of one class, a single example
    two = cmw.CMWNetClassifier(**TINY).fit(X[rows], Y[rows])
    assert two.predict(X[:1]).tolist() in (["a"], ["b"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"epochs": "3"}, "epochs is '3', expected a whole number"),
        ({"epochs": 0}, "epochs is 0, expected a number"),
        ({"hidden": (8, 0)}, r"hidden is \(8, 0\), expected whole numbers of units"),
        ({"learning_rate": np.nan}, "learning_rate is nan"),
        ({"method": "cmw"}, "method is 'cmw', expected one of"),
        ({"method": "proden"}, "proden"),
        ({"method": "fixmatch"}, "fixmatch"),
        ({"config": {"optimizer.momentun": 1.0}}, "did you mean 'optimizer.momentum'"),
        ({"config": {"num_epochs": 3}}, "config has 'num_epochs', which the argument epochs sets"),
        ({"config": {"data.name": "digits"}}, "config has 'data.name', which is for runs that read"),
        ({"config": {"model.batch_norm": 1}}, "model.batch_norm is 1, expected True or False"),
        ({"config": {"meta_set.kind": "held_out"}}, "meta_set.kind is 'held_out', but no labels"),
        ({"config": ["epochs"]}, r"config is \['epochs'\], expected a mapping"),
        ({"module": "mlp"}, "module is 'mlp', expected an instance"),
        ({"module": Dropping(outputs=2)}, r"outputs of shape \(1, 2\), expected logits of shape \(1, 3\)"),
        ({"module": Dropping(widths=[6])}, "fields cannot be hashed"),
        ({"module": Dropping(), "method": "selectivenet"}, "head of its own"),
        ({"module": nn.Conv(3, (3, 3, 3))}, "cannot be applied"),
        ({"kind": "pictures"}, "kind is 'pictures', expected one of images, tokens, vectors"),
        ({"kind": ["a"]}, r"kind is \['a'\], expected one of images, tokens, vectors"),
        ({"verbose": np.ones(2)}, r"verbose is array\(\[1., 1.\]\), expected True or False"),
        ({"kind": "images"}, r"X is float64 of shape \(24, 3\), expected images \[N, h, w, 1 or 3\] uint8"),
        ({"kind": "tokens"}, r"X is float64 of shape \(24, 3\), expected tokens \[N, length\], whole numbers"),
    ],
)
def test_a_wrong_argument_is_named(fields, message):
    with pytest.raises(UsageError, match=message) as error:
        cmw.CMWNetClassifier(**{**TINY, **fields}).fit(X, Y)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("inputs", "labels", "message"),
    [
        (X, np.array(["a"] * 24), "y has 1 class, 'a', expected"),
        (
            X[[0, 1, 6]],
            Y[[0, 1, 6]],
            "a batch comes to 3 examples, expected at least one for each of 4 devices",
        ),
        (X, np.array([*Y[1:], None], object), "y has labels that cannot be sorted .*, expected one for each"),
        (X[:5], Y[:4], "inconsistent numbers of samples"),
        (np.where(X > 2, np.nan, X), Y, "NaN"),
        (X * 1e300, Y, "infinity or a value too large"),
        (IMAGES, Y, "Found array with dim 4"),
    ],
)
def test_bad_data_are_named(inputs, labels, message):
    with pytest.raises(ValueError, match=message):
        cmw.CMWNetClassifier(**TINY).fit(inputs, labels)


def test_a_fit_that_fails_leaves_the_classifier_as_it_was():
    new = cmw.CMWNetClassifier(**TINY)
    with pytest.raises(ValueError, match="y has 1 class"):
        new.fit(X, ["a"] * len(X))
    with pytest.raises(NotFittedError):
        new.predict(X)
    new.fit(X, Y)
    before = new.predict_proba(X)
    with pytest.raises(ValueError, match="y has 1 class"):
        new.fit(X[:, :-1], ["a"] * len(X))
    np.testing.assert_array_equal(new.predict_proba(X), before)


def test_a_warning_says_where_float32_is_too_coarse():
    since_1970 = np.where(np.arange(X.shape[1]) == 1, X + 1.7e9, X)
    with pytest.warns(
        UserWarning, match="float32 hardly tells the numbers of the column '1' apart: standardise"
    ):
        check_training_data(cmw.CMWNetClassifier(), "vectors", since_1970, Y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_training_data(cmw.CMWNetClassifier(), "vectors", X + 1000, Y)
        constant = np.where(np.arange(X.shape[1]) == 1, 0.1, X)  # its deviation is a rounding error
        check_training_data(cmw.CMWNetClassifier(), "vectors", constant, Y)
