"""Files are there as a whole or not at all."""

import os
from pathlib import Path

import numpy as np
import pytest

from cmwnet_jax.files import check_regular, remove_partial_files, replace_file


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


@pytest.mark.parametrize("error", [OSError("No space left on device"), ValueError("x"), KeyboardInterrupt()])
def test_what_cannot_be_written_leaves_what_was_there(error, tmp_path):
    def half(file):
        file.write(b"half")
        file.flush()
        assert path.read_bytes() == b"old"
        raise error

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(type(error)):
        replace_file(path, half)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_killed_writers_left_is_removed(tmp_path):
    for name in (".result.json.0a1b2c3d.partial", "result.json", ".lock"):
        (tmp_path / name).touch()
    remove_partial_files(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"result.json", ".lock"}


def test_only_regular_files_and_links_to_them_pass(tmp_path):
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    link, dangling = tmp_path / "link", tmp_path / "dangling"
    file.touch()
    os.mkfifo(pipe)
    link.symlink_to(file)
    dangling.symlink_to("nowhere")
    check_regular(file)
    check_regular(link)
    for path, kind in (
        (pipe, "a named pipe"),
        (Path("/dev/zero"), "a device"),
        (tmp_path, "a folder"),
        (dangling, "a link to 'nowhere', which does not exist"),
        (tmp_path / "missing", "No such file"),
    ):
        with pytest.raises(OSError, match=kind):
            check_regular(path)
