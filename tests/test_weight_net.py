"""The weight net and the meta-classes."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cmwnet_jax as cmw
from cmwnet_jax.core.class_balance import class_balanced_weights, ldam_margins


@pytest.fixture
def net_and_params():
    net = cmw.WeightNet(num_meta_classes=3)
    return net, net.init(jax.random.key(0), jnp.ones(1), jnp.zeros(1, jnp.int32))


def test_weights_are_in_the_open_unit_interval_and_of_the_losses_shape(net_and_params):
    net, params = net_and_params
    losses = jnp.linspace(0, 20, 50)
    weights = net.apply(params, losses, jnp.arange(50) % 3)
    assert weights.shape == (50,)
    assert np.all((weights > 0) & (weights < 1))


def test_it_is_eq_4(net_and_params):
    """One hidden layer of 100 ReLU units, K sigmoid heads, the meta-class picks the head."""
    net, variables = net_and_params
    params = jax.tree.map(np.asarray, variables["params"])
    assert params["shared"]["kernel"].shape == (1, 100)
    assert params["heads"]["kernel"].shape == (100, 3)
    losses, meta_class = np.array([0.0, 0.5, 3.0], np.float32), np.array([2, 0, 1])
    hidden = np.maximum(losses[:, None] @ params["shared"]["kernel"] + params["shared"]["bias"], 0)
    heads = 1 / (1 + np.exp(-(hidden @ params["heads"]["kernel"] + params["heads"]["bias"])))
    one_hot = np.eye(3)[meta_class]
    np.testing.assert_allclose(
        net.apply(variables, losses, meta_class), np.sum(heads * one_hot, axis=1), rtol=1e-5
    )


def test_hidden_units_bend_at_different_losses(net_and_params):
    """With zero biases all kinks were at 0 and the weighting function's logit a straight line."""
    net, params = net_and_params
    weights = net.apply(params, jnp.linspace(0, 5, 101), jnp.zeros(101, jnp.int32))
    logits = np.log(weights / (1 - weights))
    assert np.max(np.abs(np.diff(logits, 2))) > 1e-4


def test_a_meta_class_without_a_head_is_nan(net_and_params):
    net, params = net_and_params
    assert np.all(np.isnan(net.apply(params, jnp.ones(2), jnp.array([3, -1]))))


def test_meta_classes_that_are_no_integers_are_refused(net_and_params):
    net, params = net_and_params
    with pytest.raises(cmw.UsageError, match="indices are float32, expected integers"):
        net.apply(params, jnp.ones(2), jnp.array([0, 1.7]))


def test_a_net_without_heads_is_refused():
    with pytest.raises(cmw.UsageError, match="num_meta_classes = 0"):
        cmw.WeightNet(num_meta_classes=0).init(jax.random.key(0), jnp.ones(1), jnp.zeros(1, jnp.int32))


def test_weighting_functions_are_the_nets_own(net_and_params):
    net, params = net_and_params
    grid = jnp.linspace(0, 4, 9)
    functions = cmw.weighting_functions(net.apply, params, grid, 3)
    assert functions.shape == (3, 9)
    np.testing.assert_array_equal(functions[2], net.apply(params, grid, jnp.full(9, 2)))
    np.testing.assert_array_equal(cmw.weighting_functions(net.apply, params, grid.tolist(), 3), functions)


def test_meta_classes_are_sorted_by_size_whatever_the_order_of_the_classes():
    counts = np.array([5000, 40, 900, 4800, 50, 1000])
    fitted = cmw.MetaClasses.fit(counts, num_meta_classes=3)
    np.testing.assert_allclose(fitted.centers, [45, 950, 4900])
    np.testing.assert_array_equal(fitted.of_class, [2, 0, 1, 2, 0, 1])
    assert fitted.of_class.dtype == np.int32
    permuted = np.random.default_rng(0).permutation(6)
    np.testing.assert_array_equal(cmw.MetaClasses.fit(counts[permuted], 3).of_class, fitted.of_class[permuted])


def test_meta_classes_are_the_best_of_all_splits_of_the_sorted_sizes():
    """K-means in one dimension has contiguous clusters, few enough to try them all."""
    counts = np.floor(5000 * 100 ** (-np.arange(10) / 9))
    ordered = np.sort(counts)

    def cost(parts):
        return sum(np.sum((part - part.mean()) ** 2) for part in parts)

    best = min((cost(np.split(ordered, [i, j])), i, j) for i in range(1, 9) for j in range(i + 1, 10))
    fitted = cmw.MetaClasses.fit(counts, 3)
    got = np.sum((counts - fitted.centers[fitted.of_class]) ** 2)
    np.testing.assert_allclose(got, best[0], rtol=1e-9)


def test_fewer_sizes_than_meta_classes_is_a_warning_that_says_what_happens():
    with pytest.warns(UserWarning, match="only 2 distinct.*num_meta_classes = 3.*share meta-classes 0 to 1"):
        fitted = cmw.MetaClasses.fit([100, 100, 500], num_meta_classes=3)
    np.testing.assert_array_equal(fitted.of_class, [0, 0, 1])
    np.testing.assert_array_equal(fitted.centers, [100, 500, 500])


def test_distinct_sizes_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cmw.MetaClasses.fit([1, 2, 3], num_meta_classes=3)


@pytest.mark.parametrize(("counts", "of_class"), [([60, 50], [1, 0]), ([50, 50], [0, 0])])
def test_a_weight_net_of_more_heads_than_classes_can_be_used(counts, of_class):
    with pytest.warns(UserWarning, match="distinct .* num_meta_classes = 3: .* other heads see no example$"):
        fitted = cmw.MetaClasses.fit(counts, num_meta_classes=3)
    np.testing.assert_array_equal(fitted.of_class, of_class)
    np.testing.assert_array_equal(fitted.centers, [50, max(counts), max(counts)])


@pytest.mark.parametrize("k", [0, -1, 1.5, None, True])
def test_k_out_of_range_is_a_usage_error(k):
    with pytest.raises(cmw.UsageError, match=rf"num_meta_classes is {k}, expected .* at least 1"):
        cmw.MetaClasses.fit([1, 2, 3], num_meta_classes=k)


@pytest.mark.parametrize("counts", [[], [1, -1], [[1, 2]], [0.5, 1], [np.nan, 1], [np.inf, 1], ["a", "b"]])
def test_counts_that_are_no_counts_are_a_usage_error(counts):
    with pytest.raises(cmw.UsageError, match="class_counts is"):
        cmw.MetaClasses.fit(counts, num_meta_classes=1)


@pytest.mark.parametrize(
    "labels",
    [
        np.arange(100) % 2,
        np.repeat(np.arange(10), 20),
        np.random.default_rng(0).integers(0, 10, 600).astype(np.uint8),
        np.random.default_rng(0).integers(0, 100, 50_000),
        np.minimum(np.random.default_rng(0).geometric(0.3, 600) - 1, 9),
    ],
    ids=["two classes", "sorted", "ten classes", "a hundred classes", "a long tail"],
)
def test_labels_instead_of_counts_are_a_usage_error(labels):
    message = (
        rf"class_counts has {len(labels)} numbers from 0 to {labels.max()}, which look like labels.*bincount"
    )
    for function in (cmw.MetaClasses.fit, class_balanced_weights, ldam_margins):
        with pytest.raises(cmw.UsageError, match=message):
            function(labels)


@pytest.mark.parametrize(
    "counts",
    [
        np.floor(50 * 100 ** (-np.arange(1000) / 999)),
        np.floor(10 * 100 ** (-np.arange(1000) / 999)),
        np.random.default_rng(0).poisson(10, 1000),
        np.random.default_rng(0).zipf(1.5, 5000) % 5000,
        [0, 5, 5, 5] * 30,
        range(100),
    ],
    ids=["a long tail", "a short one", "few-shot", "a wild one", "equal or empty", "all different"],
)
@pytest.mark.filterwarnings("ignore:the class sizes")
def test_counts_that_could_be_are_taken(counts):
    assert cmw.MetaClasses.fit(counts, 3).of_class.shape == (len(counts),)


def test_classes_without_examples_are_of_the_smallest_and_have_no_centre():
    fitted = cmw.MetaClasses.fit([0, 900, 40, 0, 5000, 50, 0], num_meta_classes=3)
    np.testing.assert_array_equal(fitted.of_class, [0, 1, 0, 0, 2, 0, 0])
    np.testing.assert_allclose(fitted.centers, [45, 900, 5000])
    with pytest.warns(UserWarning, match="only 1 distinct"):
        np.testing.assert_array_equal(cmw.MetaClasses.fit([0, 7, 7], num_meta_classes=2).centers, [7, 7])
    with pytest.raises(cmw.UsageError, match="class_counts are all 0"):
        cmw.MetaClasses.fit([0, 0], num_meta_classes=1)
