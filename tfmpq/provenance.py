"""What a result came from: digests of files and versions of packages."""

from __future__ import annotations

import hashlib
import platform
from importlib import metadata
from pathlib import Path

import keras


def fingerprint(path: str | None) -> str | None:
    """sha256 of a file, to notice that weights have changed between two calls; None for no file."""
    if path is None or not Path(path).is_file():
        return path
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def versions() -> dict[str, str]:
    """Versions of what decides a result."""
    found = {"python": platform.python_version(), "backend": keras.backend.backend()}
    for package in ("tfmpq", "keras", "tensorflow", "jax", "numpy"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
