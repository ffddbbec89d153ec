"""Files are there as a whole or not at all."""

import os
from pathlib import Path

import numpy as np
import pytest

from cmwnet_jax.errors import UsageError
from cmwnet_jax.files import (
    check_regular,
    file_to_write,
    folder_to_write,
    local_folder,
    local_path,
    remove_partial_files,
    replace_file,
)


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


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ("", "workdir is empty, expected a path"),
        (None, "workdir is None, expected a path"),
        (7, "workdir is 7, expected a path"),
        ("a\0b", r"workdir is 'a\\x00b', expected a path, in which there is no zero byte"),
        ("gs://bucket/run", "workdir is 'gs://bucket/run', expected a path of this machine's file system"),
        ("s3://bucket/run", "expected a path of this machine's"),
        ("hdfs://host/run", "expected a path of this machine's"),
        ("file:///tmp/run", "expected a path of this machine's"),
        (Path("gs://bucket/run"), "workdir is 'gs:/bucket/run', expected a path of this machine's"),
        ("~nobody_of_that_name/run", "whose user is not known"),
        ("a/" + "b" * 256, r"'a/b+'\.\.\. \(258 characters\), expected names of at most 255 bytes"),
        ("\N{GREEK SMALL LETTER ALPHA}" * 128, "expected names of at most 255 bytes"),
        ("abc/" * 1000, "expected names of at most 255 bytes, 3800 in all"),
    ],
)
def test_what_is_no_path_of_this_machine_is_refused_in_one_line(given, problem, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=problem) as raised:
        local_path("workdir", given)
    assert "\n" not in str(raised.value)
    for check in (local_folder, folder_to_write):
        with pytest.raises(UsageError, match=problem):
            check("workdir", given)
    assert list(tmp_path.iterdir()) == []


def test_paths_of_this_machine_pass_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, path in (("~/run", tmp_path / "run"), ("a:b/c", Path("a:b/c")), ("lr=[0.1]", Path("lr=[0.1]"))):
        assert local_path("workdir", given) == path
    assert folder_to_write("workdir", "~/deep/run") == tmp_path / "deep" / "run"
    assert file_to_write("--picture", "~/deep/a.png", ".png") == tmp_path / "deep" / "a.png"
    assert list(tmp_path.iterdir()) == []


def test_files_where_folders_belong_and_folders_that_cannot_be_written_are_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "a.png").mkdir()
    for name, problem in (
        ("file", "file', which is a file, expected a folder: choose another"),
        ("file/run", "file/run', which cannot be written or read, as '.*/file' is a file, expected a folder"),
        ("dangling", "dangling', which is a link to 'nowhere', which is no folder, expected a folder"),
        ("dangling/run", "as '.*/dangling' is a link to 'nowhere'"),
        ("loop", "which is a link to 'loop', which is no folder"),
    ):
        with pytest.raises(UsageError, match=problem):
            local_folder("workdir", tmp_path / name)
    with pytest.raises(UsageError, match=r"--picture is .*a.png', which is a folder, expected a file"):
        file_to_write("--picture", tmp_path / "a.png", ".png")
    with pytest.raises(UsageError, match="expected a name that ends in .png"):
        file_to_write("--picture", tmp_path / "a.jpg", ".png")
    with pytest.raises(UsageError, match="workdir is '/proc/run', which cannot be written"):
        folder_to_write("workdir", "/proc/run")

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "lstat", denied)
    with pytest.raises(UsageError, match=r"which cannot be used \(Permission denied\)"):
        local_folder("workdir", tmp_path / "run")
