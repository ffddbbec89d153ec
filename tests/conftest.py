"""Four virtual CPU devices, programs that compile fast, a data folder of the session's own, and float64."""

import importlib.util
import mmap
import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
# Programs of tests run once or twice: most of the suite's time is their compilation, which takes a fifth with
# few optimizations and without MLIR's emitters (below). Commands that tests start are compiled alike.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# Tests, and the commands that they start, share compiled programs with each other and with no one else.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).parent.parent / ".pytest_cache" / "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"

import gc

import jax
import pytest

from cmwnet_jax.data import sources
from cmwnet_jax.runs.arrays import read_arrays
from cmwnet_jax.runs.run_folder import RunFolder
from cmwnet_jax.train import watch

# One thread compiles a program: the other core has a worker of its own.
FAST = {"xla_cpu_use_fusion_emitters": "false", "xla_cpu_parallel_codegen_split_count": "1"}


def is_known_to_xla(flag):
    """XLA ends a process that is given a flag it does not know, and versions differ in theirs."""
    folder = Path(importlib.util.find_spec("jaxlib").origin).parent
    with open(max(folder.glob("*.so"), key=lambda path: path.stat().st_size), "rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ).find(flag.encode()) >= 0


flags = os.environ.get("XLA_FLAGS", "")  # read when the first program is compiled
for flag, value in FAST.items():
    if flag not in flags and is_known_to_xla(flag):  # workers inherit it
        flags += f" --{flag}={value}"
os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count=4"

gc.set_threshold(100_000, 50, 100)  # at Python's own, collections are an eighth of the suite's time


def pytest_collection_finish(session):
    """What is imported lives on: later collections need not look at it."""
    gc.freeze()


collect_ignore = ["process_of_two.py"]  # a program that a test runs


@pytest.fixture(scope="session", autouse=True)
def data_dir(tmp_path_factory):
    """Where this test process keeps prepared data sets, each of which is read once."""
    folder = tmp_path_factory.mktemp("tfds")
    os.environ["TFDS_DATA_DIR"] = str(folder)
    read_split, kept = sources.read_split, {}

    def read_once(source, split):
        if not Path(source.folder).is_relative_to(folder):
            return read_split(source, split)
        if (source.folder, split) not in kept:
            found = kept[source.folder, split] = read_split(source, split)
            for array in (found.images, found.labels, *found.columns.values()):
                array.flags.writeable = False
        return kept[source.folder, split]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "read_split", read_once)
        yield folder


@pytest.fixture(scope="session", autouse=True)
def runs_can_be_read():
    """Reads the arrays of each run that a test finishes, as reports, audits and longer runs do."""
    write_result = RunFolder.write_result

    def write_and_read(folder, result):
        write_result(folder, result)
        for file in folder.path.glob("*.npz"):
            read_arrays(folder.path, file.stem)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write_result", write_and_read)
        yield


@pytest.fixture(scope="module", autouse=True)
def no_old_programs():
    """Frees a module's compiled programs after it, those on disk excepted.

    Each takes several of the memory maps that Linux allows a process (65,530), and XLA ends the process with a
    segmentation fault when there are no more.
    """
    yield
    jax.clear_caches()


@pytest.fixture(scope="module", autouse=True)
def without_pictures(request):
    """Runs draw nothing at their end, but in `test_watch` and in commands: it takes half a second."""
    with pytest.MonkeyPatch.context() as patch:
        if request.path.name != "test_watch.py":
            patch.setattr(watch, "pictures", lambda *arguments: {})
        yield


@pytest.fixture
def x64():
    """Float64 throughout, and no silent rank promotion: for tests of the mathematics."""
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    yield
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_numpy_rank_promotion", "allow")


@pytest.fixture
def quick_programs():
    """Programs with a generator of few operations, which compile faster."""
    with jax.default_prng_impl("unsafe_rbg"):
        yield
