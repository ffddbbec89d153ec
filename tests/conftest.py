"""Four virtual CPU devices, a data folder of the session's own, and a switch to float64."""

import os
import pathlib

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
# Tests, and the commands that they start, share compiled programs with each other and with no one else.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(pathlib.Path(__file__).parent.parent / ".pytest_cache" / "xla")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"

import jax
import pytest

collect_ignore = ["process_of_two.py"]  # a program that a test runs


@pytest.fixture(scope="session", autouse=True)
def data_dir(tmp_path_factory):
    """Where this test process keeps prepared data sets."""
    folder = tmp_path_factory.mktemp("tfds")
    os.environ["TFDS_DATA_DIR"] = str(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def no_old_programs():
    """Frees a module's compiled programs after it, those on disk excepted.

    Each takes several of the memory maps that Linux allows a process (65,530), and XLA ends the process with a
    segmentation fault when there are no more.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Float64 throughout, and no silent rank promotion: for tests of the mathematics.

    Programs are compiled without most optimizations, which takes half the time: they are run once or twice.
    """
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_numpy_rank_promotion", "allow")
    jax.config.update("jax_disable_most_optimizations", False)
