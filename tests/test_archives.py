"""Tar archives: all of what they hold is read, or they are refused."""

import gzip
import io
import tarfile

import numpy as np
import pytest

from cmwnet_jax.data.builders.raw_files import RawFiles
from cmwnet_jax.errors import UsageError

FILES = {"train/a/1.bin": b"one", "train/b/2.bin": b"two", "test/a/3.bin": b""}


def write(path, members: dict, **attributes) -> bytes:
    """Writes a tar of names to bytes, or to (type, name of its target); `attributes` are the last one's."""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for number, (name, content) in enumerate(members.items(), 1):
            member = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                member.size = len(content)
            else:
                member.type, member.linkname = content
            for attribute, value in attributes.items() if number == len(members) else ():
                setattr(member, attribute, value)
            tar.addfile(member, io.BytesIO(content) if isinstance(content, bytes) else None)
    return path.read_bytes()


def read(path) -> dict[str, bytes]:
    files = RawFiles(path)
    try:
        return {name: files.read(name) for name in files.sizes}
    finally:
        files.close()


def refused(path) -> str:
    with pytest.raises(UsageError) as error:
        read(path)
    assert str(error.value).startswith(f"data.raw_dir is {str(path)!r}, ") and "\n" not in str(error.value)
    return str(error.value)


def test_damage_is_refused_or_does_none(tmp_path):
    """Truncations, flipped bits and holes of zeros: never fewer files in silence."""
    path = tmp_path / "a.tar"
    rng = np.random.default_rng(0)
    members = {f"t/{k}/f{'long' * (k % 2 * 30)}.bin": rng.bytes(rng.integers(1, 1500)) for k in range(12)}
    whole, expected = write(path, members), {name[2:]: content for name, content in members.items()}
    assert read(path) == expected
    with tarfile.open(path) as tar:
        headers = [member.offset_data - 512 for member in tar]
        end = tar.offset
    cases = [(whole[:cut], cut < end + 1024) for cut in rng.integers(len(whole), size=400)]
    for header in headers:
        cases += [(whole[:header] + bytes(size) + whole[header + size :], True) for size in (512, 1024)]
        for at, bit in zip(rng.integers(512, size=20) + header, rng.integers(8, size=20), strict=True):
            flipped = bytes([whole[at] ^ 1 << bit])
            cases.append((whole[:at] + flipped + whole[at + 1 :], at - header not in range(148, 156)))
    for damaged, is_harm in cases:  # a flip in the padding of a checksum may do none
        path.write_bytes(damaged)
        try:
            assert read(path) == expected and not is_harm
        except UsageError as error:
            assert "is truncated or corrupt" in str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda tar: tar + b"\0" * 511 + b"x", "neither a header nor the end"),
        (lambda tar: tar + tar, "neither a header nor the end"),  # as `cat` joins two, of which one was read
        (lambda tar: tar.rstrip(b"\0") + bytes(600), "before its end mark"),
        (lambda tar: b"", "empty file"),
        (lambda tar: b"\x1f\x8b no gzip", ""),
    ],
)
def test_what_is_no_whole_archive(tmp_path, spoil, message):
    path = tmp_path / "a.tar"
    path.write_bytes(spoil(write(path, {"a/1.bin": b"x" * 512})))
    assert "is truncated or corrupt" in refused(path) and message in refused(path)


def test_archives_are_known_by_their_bytes(tmp_path):
    """Browsers unpack some and keep the name; servers send pages in place of what needs a login."""
    tar = write(tmp_path / "a.tar", FILES)
    (tmp_path / "a.tar.gz").write_bytes(tar)
    (tmp_path / "a.tar").write_bytes(gzip.compress(tar))
    assert read(tmp_path / "a.tar.gz") == read(tmp_path / "a.tar") == FILES
    for name in ("a.tar.gz", "a.tar"):
        (tmp_path / name).write_bytes(b"\n<!DOCTYPE html>")
        assert "which is a web page, perhaps one to sign in at" in refused(tmp_path / name)


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("kind", ["cut", "flip", "more"])
def test_damaged_gzip(tmp_path, kind, at):
    members = {name: np.random.default_rng(0).bytes(3000) for name in FILES}
    packed = gzip.compress(write(tmp_path / "a.tar", members))
    place = int(at * len(packed))
    tail = {"cut": b"", "flip": bytes([packed[place] ^ 1]) + packed[place + 1 :], "more": packed[place:] + b"x"}
    path = tmp_path / "a.TAR.gz"
    path.write_bytes(packed)
    assert len(read(path)) == 3
    path.write_bytes(packed[:place] + tail[kind])
    assert "is truncated or corrupt" in refused(path)


@pytest.mark.parametrize(
    "name, member, message",
    [
        ("train/a/4.bin", (tarfile.SYMTYPE, "1.bin"), "a link to '1.bin'"),
        ("train/a/4.bin", (tarfile.LNKTYPE, "nowhere.bin"), "a link to 'nowhere.bin'"),
        ("train/a/4.bin", (tarfile.FIFOTYPE, ""), "a device or pipe"),
        ("train/a/4.bin", (tarfile.CHRTYPE, ""), "a device or pipe"),
        ("train/a/4.bin", (tarfile.GNUTYPE_SPARSE, ""), "a sparse file"),
        ("train/a/4.bin", (b"Z", ""), "of the unknown type b'Z'"),
        ("/train/a/4.bin", b"x", "it leads out of the archive"),
        ("../train/a/4.bin", b"x", "it leads out of the archive"),
        ("train/../../4.bin", b"x", "it leads out of the archive"),
    ],
)
def test_members_that_are_not_read_are_counted(tmp_path, name, member, message):
    write(tmp_path / "a.tar", {**FILES, name: member})
    assert f"where 1 of 4 files cannot be used, the first {name!r}: {message}: " in refused(tmp_path / "a.tar")


def test_hard_links_are_the_files_that_they_name(tmp_path):
    write(tmp_path / "a.tar", {**FILES, "./train/a/4.bin": (tarfile.LNKTYPE, "train/b/2.bin")})
    assert read(tmp_path / "a.tar") == {**FILES, "train/a/4.bin": b"two"}


def test_hidden_members_are_passed_over(tmp_path):
    hidden = ("__MACOSX/train/a/._1.bin", "train/a/.DS_Store", "train/.ipynb_checkpoints/1.bin")
    write(tmp_path / "a.tar", {**FILES, **dict.fromkeys(hidden, b"x")})
    assert read(tmp_path / "a.tar") == FILES


def test_headers_that_lead_back_do_not_lead_round_for_ever(tmp_path):
    write(tmp_path / "a.tar", {**FILES, "train/a/4.bin": (tarfile.REGTYPE, "")}, size=-1024)
    assert "negative" in refused(tmp_path / "a.tar")


def test_names_that_are_not_utf8(tmp_path):
    write(tmp_path / "a.tar", {**FILES, "train/a/caf\udce9.bin": b"x"})
    assert r"names of files and folders are not UTF-8, the first 'train/a/caf\udce9.bin'" in refused(
        tmp_path / "a.tar"
    )


def test_a_full_disk_is_not_a_damaged_archive(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.tgz"
    path.write_bytes(gzip.compress(write(tmp_path / "a.tar", FILES)))
    monkeypatch.setattr("shutil.copyfileobj", full)
    assert "which cannot be read (No space left on device)" in refused(path)
