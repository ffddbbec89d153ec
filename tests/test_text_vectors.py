"""Vectors and tokens of texts, and the tool that writes them to a file."""

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer

from cmwnet_jax.data.texts import Tokens, Vectors
from cmwnet_jax.errors import UsageError
from cmwnet_jax.train.check_config import check_config
from cmwnet_jax.train.small_data import lowered
from experiments import own_texts
from experiments import text_vectors as tool

TRAIN = ["Where is my card?", "where is my money", "Card, lost card", "money is lost"] * 2
TEST = ["my new card is lost", "where?"]


def test_vectors_keep_most_of_the_angles_between_texts():
    terms = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True).fit(TRAIN)
    encoder = Vectors(TRAIN, 4)  # there are four different texts
    train, test = encoder.encode(TRAIN), encoder.encode(TEST)
    whole = terms.transform(TRAIN).toarray()
    assert train.dtype == np.float32 and test.shape == (2, 4)
    np.testing.assert_allclose(train @ train.T, whole @ whole.T, atol=1e-5)
    np.testing.assert_allclose(test @ train.T, terms.transform(TEST).toarray() @ whole.T, atol=1e-5)


def test_tokens_are_numbered_by_frequency_in_the_training_texts():
    """Every text is there twice, so that all words are shared; 'is' is in six, the signs in two."""
    encoder = Tokens(TRAIN, 5)
    train, test = encoder.encode(TRAIN), encoder.encode(TEST)
    number = {"is": 2, "card": 3, "lost": 4, "money": 5, "my": 6, "where": 7, ",": 8, "?": 9}
    assert train[0].tolist() == [number[word] for word in ("where", "is", "my", "card", "?")]
    assert test.tolist() == [[6, 1, 3, 2, 4], [7, 9, 0, 0, 0]]
    assert Tokens(TRAIN, 2).encode(TEST).tolist() == [[6, 1], [7, 9]]
    assert encoder.words == ["[padding]", "[unknown]", *number]


def test_columns_are_read_as_text_on_one_line(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"two\nlines",1\nNA,02\n')
    assert tool.read_texts("--train", str(path), ("text", "label")) == (["two lines", "NA"], ["1", "02"], None)
    path.write_text("when,text,label,id\n2026-01-02,a,1,007\nnever,b,2,8\n")
    assert tool.read_texts("--train", str(path), ("text", "label")) == (["a", "b"], ["1", "2"], ["007", "8"])
    for table, message in (
        ("text,what\na,b\n", "no column 'label' among text, what"),
        ("text,label,text\na,b,c\n", "the column 'text' is there twice"),
        ('text,label\na,b\n" ",c\n', "where a text is empty in the column 'text', row 2: fill them in"),
    ):
        path.write_text(table)
        with pytest.raises(UsageError, match=message):
            tool.read_texts("--train", str(path), ("text", "label"))
    with pytest.raises(UsageError, match="--test is .*cannot be read as CSV .No such file"):
        tool.read_texts("--test", str(tmp_path / "b.csv"), ("text", "label"))


def test_few_texts_need_no_flags(tmp_path):
    """The batch is one that 4 or 8 devices can share."""
    for split, rows in (("train", 15), ("test", 4)):
        lines = [f"red card {row},{'ab'[row % 2]}\n" for row in range(rows)]
        (tmp_path / f"{split}.csv").write_text("text,label\n" + "".join(lines))
    for folder, batch_size, num_meta_classes in ((tmp_path, 8, 2), (tmp_path / "none", 100, 3)):
        config = own_texts.get_config(f"{folder}")
        check_config(config)
        assert (config.batch_size, config.weight_net.num_meta_classes) == (batch_size, num_meta_classes)
    assert lowered(4, 3, np.array([5, 5, 5])) == {"batch_size": 4, "weight_net.num_meta_classes": 1}
    assert lowered(4, 3, np.array([5, 5]), learned=True)["weight_net.num_meta_classes"] == 3
    assert lowered(9, 3, np.array([2, 1, 3]), shared_by=8)["batch_size"] == 6


def test_few_texts_have_few_dimensions_and_none_without_shared_words():
    assert Vectors(TRAIN, 300).encode(TEST).shape == (2, 8)
    for encoder in (Vectors, Tokens):
        with pytest.raises(UsageError, match="the 2 training texts have no word .*that is in two of them"):
            encoder(["one", "two"])
    repeated = Vectors(["red card", "blue money"] * 4, 300)  # two directions, of six terms
    lengths = np.linalg.norm(repeated.encode(["red card", "red money", "green"]), axis=1)
    assert repeated.length == 6 and 0 < lengths[1] < lengths[0] and lengths[2] == 0
    assert np.count_nonzero(repeated.encode(["red money"])) == 2
