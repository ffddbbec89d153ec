"""Models of tokens, against sums over a text's words by hand; and what the launcher says of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_arrays import config_of, tokens, vectors

from cmwnet_jax.data.load import load_data
from cmwnet_jax.errors import UsageError
from cmwnet_jax.models import MODELS
from cmwnet_jax.train.build import build_recipe
from cmwnet_jax.train.loop import train
from cmwnet_jax.train.posterior import save_posterior

VOCABULARY, CLASSES = 9, 3
SMALL = {
    "bag_of_embeddings": {"width": 4, "hidden": (6,)},
    "transformer": {"width": 4, "layers": 2, "heads": 2},
}
TEXTS = np.array([[3, 8, 1, 1, 0], [2, 0, 0, 0, 0], [5, 4, 3, 2, 1]])


def made(name):
    """The model and its variables, all of them far from 0."""
    model = MODELS[name](num_classes=CLASSES, vocabulary=VOCABULARY, **SMALL[name])
    variables = jax.jit(lambda: model.init(jax.random.key(0), TEXTS[:1], train=False))()
    rng = np.random.default_rng(0)
    return model, jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(np.float32), variables)


def logits_of(name, texts, padding=0.5):
    """Logits, with this number everywhere in the embedding of 0."""
    model, variables = made(name)
    variables["params"]["Embed_0"]["embedding"][0] = padding
    return np.asarray(jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, texts))


@pytest.mark.parametrize("name", SMALL)
def test_logits_do_not_depend_on_padding(name):
    """Nor on what is embedded under its number."""
    logits = logits_of(name, TEXTS)
    np.testing.assert_allclose(logits_of(name, np.pad(TEXTS, [(0, 0), (0, 4)])), logits, rtol=1e-5)
    np.testing.assert_allclose(logits_of(name, TEXTS[:2, :4]), logits[:2], rtol=1e-5)
    np.testing.assert_allclose(logits_of(name, TEXTS, padding=1e6), logits, rtol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_a_text_of_padding_alone_is_finite_with_its_gradient(name):
    model, variables = made(name)

    def total(params):
        state = {key: value for key, value in variables.items() if key != "params"}
        return jnp.sum(model.apply({"params": params, **state}, np.zeros((2, 5), int), train=False))

    value, gradient = jax.jit(jax.value_and_grad(total))(variables["params"])
    assert np.isfinite(value) and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_the_bag_is_a_perceptron_on_means():
    model, variables = made("bag_of_embeddings")
    table = variables["params"]["Embed_0"]["embedding"]
    means = np.stack([np.mean([table[token] for token in text if token], axis=0) for text in TEXTS])
    own = {key: value["mlp"] for key, value in variables.items()}
    expected = MODELS["mlp"](num_classes=CLASSES, hidden=(6,)).apply(own, means, train=False)
    np.testing.assert_allclose(model.apply(variables, TEXTS, train=False), expected, rtol=1e-5)


def test_the_transformer_is_its_formula():
    _, variables = made("transformer")
    layers = jax.tree.map(np.float64, variables["params"])

    def norm(number, x):
        x = (x - x.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1, keepdims=True) + 1e-6)
        return x * layers[f"LayerNorm_{number}"]["scale"] + layers[f"LayerNorm_{number}"]["bias"]

    def dense(name, x):
        return x @ layers[name]["kernel"] + layers[name]["bias"]

    def attention(number, x):
        own = layers[f"MultiHeadDotProductAttention_{number}"]
        parts = [
            np.einsum("ld,dhk->hlk", x, own[n]["kernel"]) + own[n]["bias"][:, None]
            for n in ("query", "key", "value")
        ]
        scores = np.exp(np.einsum("hqk,hlk->hql", *parts[:2]) / np.sqrt(2))
        mixed = np.einsum("hql,hlk->hqk", scores / scores.sum(axis=-1, keepdims=True), parts[2])
        return np.einsum("hqk,hkd->qd", mixed, own["out"]["kernel"]) + own["out"]["bias"]

    def gelu(x):
        return x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    def logits(text):
        x = np.stack([layers["Embed_0"]["embedding"][token] for token in text])
        angles = np.arange(len(text))[:, None] / [1, 100]
        x = x + 0.02 * np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
        for block in range(2):
            x = x + attention(block, norm(2 * block, x))
            x = x + dense(f"Dense_{2 * block + 1}", gelu(dense(f"Dense_{2 * block}", norm(2 * block + 1, x))))
        return dense("head", norm(4, x).mean(axis=0))

    expected = [logits(text[text > 0]) for text in TEXTS]
    np.testing.assert_allclose(logits_of("transformer", TEXTS), expected, rtol=1e-4)


def test_a_run_on_tokens_learns_which_words_mean_a_class(tmp_path):
    """The words of the classes are disjoint."""
    config = config_of(
        tmp_path, tokens(), model__name="bag_of_embeddings", method="erm", num_epochs=8, warmup_epochs=0
    )
    assert train(config, tmp_path / "run")["test_accuracy_percent_last"] > 90
    posterior = np.load(save_posterior(str(tmp_path / "run"), str(tmp_path / "p.npy")))
    assert np.mean(posterior.argmax(axis=1) == load_data(config).true_labels) > 0.9


@pytest.mark.parametrize(
    ("arrays", "fields", "message"),
    [
        (tokens, {}, "'mlp', which takes images or vectors, but the data set holds tokens: .* transformer"),
        (vectors, {"model__name": "transformer"}, "'transformer', which takes tokens, but .* vectors: .* mlp"),
        (tokens, {"model__name": "transformer", "model__width": 10}, "model.width is 10, expected an even"),
        (tokens, {"model__name": "bag_of_embeddings", "model__width": 2**16, "model__hidden": (2**16,)},
         "model.hidden is .* inputs of 6 comes to"),
        (tokens, {"model__name": "transformer", "meta_set__mixup": True}, "set --config.meta_set.mixup=False$"),
        (tokens, {"model__name": "transformer", "method": "mixup"}, "tokens, .* --config.mixup_alpha=0.0$"),
        (tokens, {"model__name": "transformer", "method": "cmwnet_sl", "meta_set__mixup": True},
         "is True and mixup_alpha is 1.0, .*: set --config.meta_set.mixup=False --config.mixup_alpha=0.0"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_sentence(tmp_path, arrays, fields, message):
    config = config_of(tmp_path, arrays(), **fields)
    with pytest.raises(UsageError, match=message):
        build_recipe(config, load_data(config))
