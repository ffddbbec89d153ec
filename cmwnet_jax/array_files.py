"""Safe reading of arrays from untrusted `.npy`, `.npz` and `.safetensors` files.

Everything in a file is checked before it is used: claimed sizes against the file's size, dtypes against a list
of numeric types, contents against the checksums in zips. Pickles, which can run any code, are never read.
"""

import contextlib
import json
import math
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes  # a dependency of JAX
import numpy as np
import safetensors

from cmwnet_jax.errors import UsageError, first_line
from cmwnet_jax.files import check_regular

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
_SAFETENSORS_DTYPES = {
    **{f"F{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
    **{f"{kind.upper()}{bits}": np.dtype(f"<{kind}{bits // 8}") for kind in "iu" for bits in (8, 16, 32, 64)},
    "BF16": _BFLOAT16,
    "BOOL": np.dtype(bool),
}
_NPY_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}

# Largest size that a packed file may unpack to: this, or so many times its own size; zeros pack 1,000 to 1.
_UNPACKED_BYTES, _UNPACKED_TIMES = 1 << 30, 100


@contextlib.contextmanager
def reading(path: str | os.PathLike, problem: str, remedy: str) -> Iterator[Path]:
    """Turns any error with a file into one sentence, both before it is opened and while it is read.

    Args:
        path: the file; `~` stands for the home folder.
        problem: beginning of the sentence: the field, the path, and what is expected.
        remedy: end of the sentence: what to do.

    Yields:
        The path of a regular file.

    Raises:
        UsageError: `problem (what is wrong): remedy`.
    """
    try:
        path = Path(os.path.expanduser(path))
        check_regular(path)
        yield path
    except UsageError:
        raise
    # The errors of numpy, zipfile, zlib, json or safetensors depend on where a file is damaged.
    except Exception as error:
        raise UsageError(f"{problem} ({first_line(error)}): {remedy}") from error


def read_npy(path: str | os.PathLike, problem: str, remedy: str, *, finite: bool = True) -> np.ndarray:
    """Reads the array in an `.npy` file; the file's name may have any ending.

    Args:
        path: the file.
        problem: as in `reading`.
        remedy: as in `reading`.
        finite: whether to refuse NaN and infinite numbers.

    Returns:
        Numbers or booleans with the file's shape and dtype, in the machine's byte order.

    Raises:
        UsageError: the file cannot be read.
    """
    with reading(path, problem, remedy) as path, path.open("rb") as file:
        array = npy(file, path.stat().st_size)
        if finite:
            _check_finite({"": array})
    return array


def read_npz(
    path: str | os.PathLike, problem: str, remedy: str, *, finite: bool = True, text: bool = False
) -> dict[str, np.ndarray]:
    """Reads the arrays in an `.npz` file by name, each as in `read_npy`.

    Args:
        path: the file.
        problem: as in `reading`.
        remedy: as in `reading`.
        finite: whether to refuse NaN and infinite numbers.
        text: whether to allow arrays of text.

    Raises:
        UsageError: the file cannot be read.
    """
    with reading(path, problem, remedy) as path, path.open("rb") as file:
        return npz(file, path.stat().st_size, finite=finite, text=text)


def read_safetensors(
    path: str | os.PathLike, problem: str, remedy: str, *, finite: bool = True
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the arrays in a `.safetensors` file by name, as in `read_npz`, and its metadata.

    Args:
        path: the file.
        problem: as in `reading`.
        remedy: as in `reading`.
        finite: whether to refuse NaN and infinite numbers.

    Raises:
        UsageError: the file cannot be read.
    """
    with reading(path, problem, remedy) as path:
        with safetensors.safe_open(path, framework="numpy"):
            pass  # this checks the header: its length, and that the arrays fill the file
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length), object_pairs_hook=_once_each)
            metadata = header.pop("__metadata__", {})
            arrays = {
                name: _tensor(file, 8 + length, name, **entry)
                for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"])
            }
        if finite:
            _check_finite(arrays)
    return arrays, metadata


def to_float32(arrays: Mapping[str, np.ndarray], problem: str, remedy: str) -> dict[str, np.ndarray]:
    """Converts floating-point arrays to float32.

    Args:
        arrays: arrays by name.
        problem: as in `reading`.
        remedy: as in `reading`.

    Raises:
        UsageError: an array has no floating-point dtype, or values too large for float32.
    """
    converted = {}
    for name, array in arrays.items():
        with np.errstate(over="ignore"):
            converted[name] = array.astype(np.float32)
        if array.dtype.kind != "f" and array.dtype != _BFLOAT16:
            raise UsageError(f"{problem} ({name!r} is of {array.dtype}, expected floats): {remedy}")
        if not np.isfinite(converted[name]).all():
            raise UsageError(f"{problem} ({name!r} is too large for float32): {remedy}")
    return converted


def npz(file: BinaryIO, size: int, *, finite: bool = True, text: bool = False) -> dict[str, np.ndarray]:
    """Reads the arrays of an open `.npz`, inside `reading`.

    Args:
        file: the file, at its start.
        size: its size in bytes.
        finite: as in `read_npz`.
        text: as in `read_npz`.

    Raises:
        Exception: errors of many types if the file is damaged.
    """
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        check_unpacked(sum(member.file_size for member in members), size)
        return _once_each(
            [(m.filename.removesuffix(".npy"), _member(archive, m, finite, text)) for m in members]
        )


def npy(stream: BinaryIO, size: int, *, text: bool = False) -> np.ndarray:
    """Reads the array of an open `.npy`, inside `reading`.

    Args:
        stream: the file, at its start.
        size: its size in bytes.
        text: as in `read_npz`.

    Raises:
        Exception: errors of many types if the file is damaged.
    """
    version = np.lib.format.read_magic(stream)
    if version not in _NPY_HEADERS:
        raise ValueError(f"it is an .npy file of version {version}, expected 1.0 or 2.0, which numbers have")
    shape, is_fortran, stored = _NPY_HEADERS[version](stream)
    dtype = _allowed(stored, text)
    said, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if min(shape, default=0) < 0 or said != held:
        raise ValueError(f"its header says {shape} numbers of {dtype}, {said} bytes, and {held} follow")
    return _filled(stream, said, dtype).reshape(shape, order="F" if is_fortran else "C")


def check_unpacked(unpacked: int, packed: int) -> None:
    """Checks the claimed size of a packed file, so that a few bytes cannot fill the memory.

    Args:
        unpacked: claimed size after unpacking, in bytes.
        packed: size of the packed file in bytes.

    Raises:
        ValueError: the claimed size is far larger than that of real data.
    """
    if unpacked > max(_UNPACKED_BYTES, _UNPACKED_TIMES * packed):
        raise ValueError(f"it claims to unpack from {packed} to {unpacked} bytes, more than numbers do")


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, finite: bool, text: bool) -> np.ndarray:
    """Reads one array of an `.npz`; at its end, zipfile compares the zip's own checksum."""
    try:
        if not member.filename.endswith(".npy"):
            raise ValueError("it is no .npy file")
        if member.comment:  # with a damaged length, it would hide the members that follow
            raise ValueError("it has a comment")
        with archive.open(member) as stream:
            array = npy(stream, member.file_size, text=text)
            stream.read(1)  # reaches the end, and so the checksum, even if the array is empty
        if finite:
            _check_finite({"": array})
    except Exception as error:
        raise ValueError(f"{member.filename!r}: {first_line(error)}") from error
    return array


def _tensor(
    file: BinaryIO, start: int, name: str, dtype: str, shape: list[int], data_offsets: list[int]
) -> np.ndarray:
    """Reads one array of a `.safetensors` whose header has been checked."""
    if dtype not in _SAFETENSORS_DTYPES:
        raise ValueError(f"{name!r} is of {dtype}, expected one of {', '.join(_SAFETENSORS_DTYPES)}")
    begin, end = data_offsets
    file.seek(start + begin)
    return _filled(file, end - begin, _SAFETENSORS_DTYPES[dtype]).reshape(shape)


def _filled(stream: BinaryIO, size: int, dtype: np.dtype) -> np.ndarray:
    """Reads the next `size` bytes as a flat array of numbers."""
    data = np.empty(size, np.uint8)
    for start in range(0, size, 1 << 24):
        block, at = memoryview(data)[start : start + (1 << 24)], 0
        while at < len(block):
            got = stream.readinto(block[at:])
            if not got:
                raise EOFError(f"it ends after {start + at} of {size} bytes")
            at += got
    if dtype.kind == "b" and data.max(initial=0) > 1:
        raise ValueError("its truth values are not 0 or 1")
    if dtype.kind == "U" and data.view(dtype.byteorder + "u4").max(initial=0) > sys.maxunicode:
        raise ValueError("it is of text with characters that do not exist")
    return data.view(dtype).astype(dtype.newbyteorder("="), copy=False)


def _allowed(dtype: np.dtype, text: bool) -> np.dtype:
    """The dtype to read for a dtype in a header; raises a ValueError if it is not allowed."""
    if dtype.hasobject:
        raise ValueError("it holds Python objects, whose pickles could run any code")
    if dtype == np.dtype("V2"):
        return _BFLOAT16  # numpy has no name for it and writes "two bytes"
    if dtype.kind not in ("biufU" if text else "biuf"):
        raise ValueError(f"it is of {dtype}, expected numbers{' or text' if text else ''}")
    return dtype


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dictionary of these pairs; raises a ValueError if a name comes twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it has {max(names, key=names.count)!r} twice")
    return found


def _check_finite(arrays: Mapping[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        if array.dtype.kind != "f" and array.dtype != _BFLOAT16:
            continue
        finite = np.isfinite(array)
        if not finite.all():
            place = tuple(int(index) for index in np.argwhere(~finite)[0])
            raise ValueError(
                f"{name!r} has {array[place]} at {place}" if name else f"{array[place]} at {place}"
            )
