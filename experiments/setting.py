"""What a measurement depends on, besides the code: versions, processor, card. Needs no JAX."""

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")


def setting() -> dict:
    """The machine and the versions, for a JSON file.

    Returns:
        `processor`, `cores`, `cards` (of NVIDIA, with their memory and driver), and `versions` by package, None
        for one that is not installed.
    """
    return {"processor": _processor(), "cores": os.cpu_count(), "cards": _cards(), "versions": _versions()}


def _versions() -> dict[str, str | None]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor()


def _cards() -> list[str]:
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):  # there is none, or no driver
        return []
    return [line.strip() for line in said.splitlines() if line.strip()]
