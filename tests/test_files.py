"""Files are there as a whole or not at all."""

import numpy as np
import pytest

from cmwnet_jax.files import replace_file


@pytest.mark.parametrize(
    "content", [b"new \xff", "new \N{GREEK SMALL LETTER ALPHA}", lambda file: np.save(file, np.arange(3))]
)
def test_a_file_is_replaced(tmp_path, content):
    path = tmp_path / "file"
    path.write_bytes(b"what was there, and longer than what comes")
    replace_file(path, content)
    if callable(content):
        np.testing.assert_array_equal(np.load(path), np.arange(3))
    else:
        assert path.read_bytes() == (content.encode() if isinstance(content, str) else content)
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path):
    def half(file):
        file.write(b"half")
        file.flush()
        assert path.read_bytes() == b"old"
        raise OSError("No space left on device")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(OSError, match="No space"):
        replace_file(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
