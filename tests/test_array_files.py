"""Damaged files of arrays are one sentence, or give the right values; nothing else comes of them."""

import gzip
import io
import json
import os
import pickle
import socket
import struct
import warnings
import zipfile

import jax
import ml_dtypes
import numpy as np
import pytest
import raw_data
import safetensors.numpy
from test_record import TRUE, load, make_record
from test_transfer_file import published_layout

import cmwnet_jax as cmw
from cmwnet_jax import array_files
from cmwnet_jax.data.bias.labels import BiasedLabels, probabilities_by_id
from cmwnet_jax.data.bias_record import save_record
from cmwnet_jax.data.builders.mnist_format import read_idx
from cmwnet_jax.data.human_labels import human_labels
from cmwnet_jax.data.probabilities import load_probabilities
from cmwnet_jax.data.sources import Dataset, Split
from cmwnet_jax.errors import UsageError
from cmwnet_jax.models.pretrained import load_pretrained
from cmwnet_jax.report import find
from cmwnet_jax.transfer.orbax_folder import CHECKSUMS
from cmwnet_jax.transfer.portable import write_file

LABELS = np.arange(12) % 3
SPLIT = Split(np.zeros((12, 2, 2, 1), np.uint8), LABELS.astype(np.int32))
DATASET = Dataset("made", SPLIT, SPLIT, ("a", "b", "c"))


def weight_net(path):
    params = cmw.WeightNet(num_meta_classes=2, hidden=4).init(jax.random.key(0), np.ones(1), np.zeros(1, int))
    cmw.save_weight_net(path, params, centers=[40, 900], loss_range=(0, 7.5), provenance={"dataset": "d"})
    return path


def exported_weight_net(path):
    write_file(path, cmw.load_weight_net(weight_net(path.parent / "net")))


def weights_of(path):
    saved = cmw.load_weight_net(path)
    layers = saved.weight_params["params"]
    weights = {f"{layer}/{name}": array for layer, own in layers.items() for name, array in own.items()}
    return {**weights, **saved.about()}


def probabilities(path, dtype=np.float32):
    np.save(path, np.random.default_rng(0).dirichlet(np.ones(3), 12).astype(dtype))


def read_probabilities(path):
    about = {"true_labels": LABELS, "class_names": "abc"}
    return {"values": load_probabilities("data.posterior", str(path), (12, 3), "make one", **about)}


def people(path):
    np.savez(path, clean_label=LABELS, worse_label=(LABELS + 1) % 3, other_label=LABELS)


def record(path):
    save_record(path.parent, make_record(), TRUE)


def read_record(path):
    found = load(path.parent)
    return {"given": found.labels.given, "ids": found.labels.ids, "seed": found.seed, "name": found.name}


def corrected(path):
    counts = dict.fromkeys(("num_labels", "num_wrong", "num_changed", "num_changed_rightly"), 7)
    labels = dict.fromkeys(("given", "new", "true"), LABELS)
    names = np.array(["a", "bc", "d"])
    images = np.arange(48, dtype=np.uint8).reshape(12, 2, 2, 1)
    np.savez_compressed(path, images=images, class_names=names, truth_known=True, **labels, **counts)


def idx(path):
    raw_data.write_idx(path, np.arange(60).reshape(5, 4, 3))


def pretrained(path):
    arrays = {"conv1.weight": np.random.default_rng(0).normal(size=(4, 3, 2, 2)).astype(np.float32)}
    (np.savez if path.suffix == ".npz" else lambda p, **a: safetensors.numpy.save_file(a, p))(path, **arrays)


def read_pretrained(path):
    # A ResNet-18 is 45 MB: one array of it is enough.
    blank = {"params": {"conv1": {"kernel": np.zeros((2, 2, 3, 4), np.float32)}}}
    variables, _ = load_pretrained(path, "resnet18", blank)
    return {"kernel": np.asarray(variables["params"]["conv1"]["kernel"])}


# Name of the file -> what writes it, what reads it, and whether its format has a checksum of the values.
READERS = {
    "net.safetensors": (exported_weight_net, weights_of, True),
    "published.npz": (published_layout, weights_of, True),
    "posterior.npy": (probabilities, read_probabilities, False),
    "people.npz": (people, lambda path: human_labels(str(path), DATASET), True),
    "bias.npz": (record, read_record, True),
    "bias.json": (record, read_record, True),
    "weights.npz": (pretrained, read_pretrained, True),
    "weights.safetensors": (pretrained, read_pretrained, False),
    "corrected.npz": (corrected, lambda path: find.Found(path.parent, (), "erm", 0).arrays("corrected"), True),
    "images-idx3-ubyte.gz": (idx, lambda path: {"": read_idx(path, 3)}, True),
}
every_reader = pytest.mark.parametrize("name", READERS)


def write(tmp_path, name):
    writes, reads, has_checksum = READERS[name]
    path = tmp_path / "folder" / name
    path.parent.mkdir(exist_ok=True)
    writes(path)
    return path, reads, has_checksum


def one_sentence(reads, path) -> str:
    """The sentence about a file that names it, or its folder; empty where it was read."""
    try:
        reads(path)
    except UsageError as error:
        message = str(error)
        assert "\n" not in message and len(message) < 900
        assert path.name in message or str(path.parent) in message
        return message
    return ""


def same(found: dict, expected: dict) -> bool:
    return found.keys() == expected.keys() and all(
        np.array_equal(np.asarray(found[name]), np.asarray(expected[name])) for name in expected
    )


@every_reader
def test_flipped_bits_and_lost_bytes(tmp_path, name):
    """Seeded damage; a flip that nothing notices must leave the values, where the format can tell."""
    path, reads, has_checksum = write(tmp_path, name)
    whole, expected = path.read_bytes(), reads(path)
    rng = np.random.default_rng(0)
    damaged = [whole[: int(length)] for length in rng.integers(len(whole), size=12)] + [whole[:-1], b""]
    for position in rng.integers(len(whole), size=60):
        flipped = bytes([whole[position] ^ 1 << int(rng.integers(8))])
        damaged.append(whole[:position] + flipped + whole[position + 1 :])
    # Headers and directories are few bytes of many.
    for position in [*range(0, min(len(whole), 60), 2), *range(max(0, len(whole) - 80), len(whole), 2)]:
        damaged.append(whole[:position] + bytes([whole[position] ^ 0x14]) + whole[position + 1 :])
    noticed = 0
    for content in damaged:
        path.write_bytes(content)
        if one_sentence(reads, path):
            noticed += 1
        elif has_checksum:
            assert same(reads(path), expected)
        else:
            assert reads(path).keys() == expected.keys()
    assert noticed > 30
    path.write_bytes(whole)
    assert same(reads(path), expected)


@every_reader
def test_what_is_no_file_is_neither_waited_for_nor_read_for_ever(tmp_path, name, monkeypatch):
    path, reads, _ = write(tmp_path, name)
    path.unlink()
    monkeypatch.chdir(path.parent)  # the address of a socket has room for few letters
    made = {
        "a named pipe": lambda: os.mkfifo(path),
        "a device": lambda: path.symlink_to("/dev/zero"),
        "which does not exist": lambda: path.symlink_to("nowhere"),
        "a socket": lambda: socket.socket(socket.AF_UNIX).bind(path.name),
    }
    for what, make in made.items():
        make()
        assert what in one_sentence(reads, path)
        path.unlink()


def npy(array, **options) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def npy_saying(shape, descr="<f4", data=b"", version=(1, 0), **more) -> bytes:
    text = repr({"descr": descr, "fortran_order": False, "shape": shape, **more}).encode() + b"\n"
    return (
        b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version[0] == 1 else "<I", len(text)) + text + data
    )


def npz(members: list[tuple[str, bytes]], **options) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", **options) as archive:
        warnings.simplefilter("ignore")  # of duplicate names
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def marked(packed: bytes, offset_local: int, offset_central: int, value: bytes) -> bytes:
    """A zip of one member with a field of its two headers overwritten."""
    packed = bytearray(packed)
    for start, offset in ((packed.index(b"PK\3\4"), offset_local), (packed.index(b"PK\1\2"), offset_central)):
        packed[start + offset : start + offset + len(value)] = value
    return bytes(packed)


def tensors(header: dict | str, data: bytes = b"") -> bytes:
    text = (header if isinstance(header, str) else json.dumps(header)).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = npz([("a.npy", npy(np.ones(3)))])
LIES = {
    "npy": {
        "more than the memory": npy_saying((10**15,)),
        "a negative shape": npy_saying((-3, -1), data=bytes(12)),
        "shape of words": npy_saying(("3",), data=bytes(12)),
        "no dictionary": npy_saying((3,)).replace(b"{", b"("),
        "a null byte": npy_saying((3,), data=bytes(12)).replace(b"'shape'", b"'sh\0pe'"),
        "nested": b"\x93NUMPY\1\0" + struct.pack("<H", 9000) + b"(" * 9000,
        "header of 4 GB": b"\x93NUMPY\2\0\xff\xff\xff\xff{",
        "later version": npy_saying((3,), data=bytes(12), version=(3, 0)),
        "trailing": npy(np.ones(3)) + b"x",
        "two arrays": npy(np.ones(3)) * 2,
        "objects": npy(np.array([{}, 1], object), allow_pickle=True),
        "a pickle": pickle.dumps([1]),
        "a zip": ONE,
        "strings": npy(np.array(["a", "b"])),
        "structured": npy(np.zeros(2, [("a", int), ("b", float)])),
        "void": npy(np.zeros(2, "V8")),
        "dates": npy(np.zeros(2, "M8[s]")),
        "complex": npy(np.ones(2, complex)),
        "NaN": npy(np.array([1, np.nan])),
        "infinite": npy(np.array([1, np.inf], np.float16)),
        "not a truth value": npy_saying((2,), "|b1", b"\1\2"),
        "empty": b"",
    },
    "npz": {
        "no zip": b"PK nothing",
        "bomb": marked(ONE, 22, 24, struct.pack("<I", 2**32 - 2)),
        "shape beyond": npz([("a.npy", npy_saying((10**15,)))]),
        "twice": npz([("a.npy", npy(np.ones(3))), ("a.npy", npy(np.zeros(3)))]),
        "twice but for the ending": npz([("a.npy", npy(np.ones(3))), ("a", npy(np.zeros(3)))]),
        "text": npz([("a.txt", b"hello")]),
        "encrypted": marked(ONE, 6, 8, b"\1\0"),
        "unknown packing": marked(ONE, 8, 10, b"\x63\0"),
        "objects": npz([("a.npy", npy(np.array([{}], object), allow_pickle=True))]),
        "NaN": npz([("a.npy", npy(np.array([np.nan])))]),
        "an empty array with a tail": npz([("a.npy", npy(np.ones(0)) + b"x")]),
    },
    "safetensors": {
        "header of 2**60": struct.pack("<Q", 2**60),
        "no JSON": tensors("{"),
        "no object": tensors("[]"),
        "no UTF-8": struct.pack("<Q", 2) + b"\xff\xff",
        "beyond": tensors({"a": {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]}}),
        "overflow": tensors({"a": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}}),
        "a hole": tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, bytes(8)),
        "twice": tensors(
            '{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],'
            '"data_offsets":[0,0]}}'
        ),
        "other dtype": tensors({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)),
        "NaN": safetensors.numpy.save({"a": np.array([np.nan])}),
        "trailing": safetensors.numpy.save({"a": np.ones(2)}) + b"x",
    },
}


@pytest.mark.parametrize(("kind", "lie"), [(kind, lie) for kind, lies in LIES.items() for lie in lies])
def test_lies_are_one_sentence(tmp_path, kind, lie):
    path = tmp_path / f"file.{kind}"
    path.write_bytes(LIES[kind][lie])
    read = getattr(array_files, f"read_{kind}")
    message = one_sentence(lambda path: read(path, f"{path} cannot be read", "take another"), path)
    assert message.startswith(f"{path} cannot be read (") and message.endswith("): take another"), message


def test_a_zip_that_unpacks_to_far_more_than_numbers_do(tmp_path, monkeypatch):
    monkeypatch.setattr(array_files, "_UNPACKED_BYTES", 1 << 16)
    np.savez_compressed(tmp_path / "zeros.npz", a=np.zeros(1 << 20, np.uint8))
    with pytest.raises(UsageError, match="claims to unpack"):
        array_files.read_npz(tmp_path / "zeros.npz", "zeros", "take another")
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 1 << 20) + bytes(1 << 20)))
    with pytest.raises(UsageError, match="claims to unpack"):
        read_idx(path, 1)


NUMBERS = np.arange(6).reshape(2, 3)


@pytest.mark.parametrize("dtype", ["<f2", ">f4", ">f8", "<i4", ">i8", "u1", "?", ml_dtypes.bfloat16])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_are_read_whatever_holds_them(tmp_path, dtype, order):
    array = np.asarray(NUMBERS.astype(dtype), order=order)
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", a=array, empty=array[:0], scalar=array[1, 2])
    one = array_files.read_npy(tmp_path / "a.npy", "", "")
    several = array_files.read_npz(tmp_path / "a.npz", "", "")
    assert several["empty"].shape == (0, 3) and several["scalar"].shape == ()
    for got in (one, several["a"]):
        assert got.dtype == array.dtype.newbyteorder("=") and got.dtype.isnative and got.flags.writeable
        np.testing.assert_array_equal(got, array)
    if array.dtype.isnative:
        safetensors.numpy.save_file({"a": np.ascontiguousarray(array)}, tmp_path / "a.safetensors")
        got, metadata = array_files.read_safetensors(tmp_path / "a.safetensors", "", "")
        assert metadata == {} and got["a"].dtype == array.dtype
        np.testing.assert_array_equal(got["a"], array)


@pytest.mark.parametrize("order", "<>")
def test_text_is_read_where_it_is_expected(tmp_path, order):
    names = np.array(["cat", "\N{GREEK SMALL LETTER ALPHA}", ""]).astype(f"{order}U3")
    np.savez(tmp_path / "names.npz", names=names, numbers=np.array([np.nan]))
    found = array_files.read_npz(tmp_path / "names.npz", "", "", finite=False, text=True)
    assert found["names"].tolist() == names.tolist() and np.isnan(found["numbers"]).all()
    (tmp_path / "names.npz").write_bytes(npz([("a.npy", npy_saying((1,), f"{order}U1", b"\xff" * 4))]))
    with pytest.raises(UsageError, match="characters that do not exist"):
        array_files.read_npz(tmp_path / "names.npz", "", "", text=True)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ">f8"])
def test_weights_of_any_floats_are_taken(tmp_path, dtype):
    arrays = {"conv1.weight": np.linspace(-1, 1, 48).reshape(4, 3, 2, 2).astype(dtype)}
    np.savez(tmp_path / "weights.npz", **arrays)
    kernel = read_pretrained(tmp_path / "weights.npz")["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, arrays["conv1.weight"].transpose(2, 3, 1, 0).astype(np.float32))
    for wrong, said in ((np.ones((4, 3, 2, 2), int), "of int64, expected floats"), (1e300, "too large")):
        np.savez(tmp_path / "weights.npz", **{"conv1.weight": np.broadcast_to(wrong, (4, 3, 2, 2))})
        with pytest.raises(UsageError, match=rf"weights.npz cannot be read \('conv1.weight' is {said}"):
            read_pretrained(tmp_path / "weights.npz")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, ">f4", np.float64])
def test_probabilities_of_any_floats_are_distributions(tmp_path, dtype):
    probabilities(tmp_path / "p.npy", dtype)
    values = read_probabilities(tmp_path / "p.npy")["values"]
    stored = array_files.read_npy(tmp_path / "p.npy", "", "").astype(np.float64)
    np.testing.assert_allclose(values, stored / stored.sum(axis=1, keepdims=True), atol=1e-6)
    labels = BiasedLabels.clean(LABELS, 3)
    np.testing.assert_allclose(probabilities_by_id("p", values, labels).sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({7: 0.5}, r"1 rows are not distributions, first row 7 \(the sum is 1.5\)"),
        ({3: [1.5, -0.5, 0], 9: 0.2}, "2 rows are not distributions, first row 3"),
        ({4: np.nan}, r"first row 4 \(the sum is nan\)"),
        ({5: [np.inf, 0, 0]}, "first row 5"),
        ({2: [1, 1, 0]}, "first row 2"),
    ],
)
@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_rows_that_are_no_distributions_are_named(tmp_path, change, said, dtype):
    values = np.full((12, 3), 1 / 3)
    for row, content in change.items():
        values[row] = content
    np.save(tmp_path / "p.npy", values.astype(dtype))
    with pytest.raises(UsageError, match=rf"data.posterior is '.*p.npy', where .*{said}.*: make one"):
        read_probabilities(tmp_path / "p.npy")


def test_whole_numbers_are_probabilities_where_each_row_has_one_one(tmp_path):
    one_hot = np.eye(3, dtype=np.uint8)[LABELS]
    one_hot[11] = 0  # an example that a run has left out
    np.save(tmp_path / "p.npy", one_hot)
    np.testing.assert_array_equal(read_probabilities(tmp_path / "p.npy")["values"], one_hot)
    np.save(tmp_path / "p.npy", one_hot * 100)
    with pytest.raises(UsageError, match="11 rows are not distributions, first row 0"):
        read_probabilities(tmp_path / "p.npy")


@pytest.mark.parametrize("dtype", ["u8", ">i2", "i1"])
def test_human_labels_of_any_whole_numbers_are_taken(tmp_path, dtype):
    np.savez(tmp_path / "l.npz", clean_label=LABELS.astype(dtype), worse=LABELS[::-1].astype(dtype))
    found = human_labels(str(tmp_path / "l.npz"), DATASET)
    assert found["worse"].dtype == np.int32
    np.testing.assert_array_equal(found["worse"], LABELS[::-1])


def test_a_weight_nets_folder_notices_what_it_says_being_changed(tmp_path):
    metadata = weight_net(tmp_path / "net") / "_METADATA"
    whole, expected = metadata.read_text(), weights_of(tmp_path / "net")
    for old, new in (("7.5", "7.4"), ("900", "901"), ('"d"', '"e"'), ('"centers"', '"centres"')):
        assert old in whole
        metadata.write_text(whole.replace(old, new))
        assert "net" in one_sentence(weights_of, tmp_path / "net")
    (tmp_path / "net" / CHECKSUMS).unlink()  # as earlier versions wrote it
    metadata.write_text(whole)
    assert same(weights_of(tmp_path / "net"), expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_weight_nets_without_checksums_and_of_half_precision_are_read(tmp_path, dtype):
    exported_weight_net(tmp_path / "net.safetensors")
    expected = cmw.load_weight_net(tmp_path / "net.safetensors")
    flat, _ = array_files.read_safetensors(tmp_path / "net.safetensors", "", "")
    halves = {name: array.astype(dtype) for name, array in flat.items()}
    about = {"cmwnet_jax": json.dumps(expected.about())}
    safetensors.numpy.save_file(halves, tmp_path / "half.safetensors", about)
    found = cmw.load_weight_net(tmp_path / "half.safetensors")
    assert found.about() == expected.about()
    np.testing.assert_allclose(found.functions([0, 1, 5]), expected.functions([0, 1, 5]), atol=1e-2)
