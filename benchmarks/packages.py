"""Find files in installed Python packages and in Debian packages, verified by checksum, not by version."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from vectuned.config.errors import VectunedError, printable

_SECONDS: Final = 600
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Package:
    """A source of files; `files` holds the SHA-256 of each path below `root`.

    `source` is python, with a module as `root`, or debian, with a folder as `root`. `version` is tried first;
    None accepts any version.
    """

    source: str
    name: str
    root: str
    files: Mapping[str, str]
    version: str = ""


@dataclass(frozen=True)
class Found:
    """The verified files of a package on this machine, and the version of the package."""

    package: Package
    version: str
    folder: Path

    def path(self, file: str) -> Path:
        """Return the path of a file of the package."""
        return self.folder / file

    def record(self) -> dict[str, Any]:
        """Return the origin of the files, for the description of a set."""
        return {
            "source": self.package.source,
            "package": self.package.name,
            "version": self.version,
            "files": dict(self.package.files),
        }


def find(package: Package, folder: Path) -> Found:
    """Find the files of a package; fetch it and unpack it below `folder` if it is not installed.

    Raises VectunedError with the package to install, or the file with a wrong checksum.
    """
    if package.source == "python":
        found = _installed(package)
    elif package.source == "debian":
        found = _unpacked(package, folder)
    else:
        raise VectunedError(f"Package {package.name}: source is python or debian, not {package.source!r}.")
    for file, wanted in package.files.items():
        path = found.path(file)
        if not path.is_file():
            raise VectunedError(
                f"Package {package.name} {found.version} has no file {file}:"
                f" that of version {package.version or 'any'} is wanted."
            )
        if sha256(path) != wanted:
            raise VectunedError(
                f"File {file} of package {package.name} {found.version} has another checksum than sets.toml"
                f" says (SHA-256 {wanted[:12]}...): it is damaged, or not that of version {package.version}."
            )
    return found


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _installed(package: Package) -> Found:
    spec = importlib.util.find_spec(package.root)  # finds the package without importing it
    if spec is None or not spec.submodule_search_locations:
        pinned = f"{package.name}=={package.version}" if package.version else package.name
        raise VectunedError(
            f"The Python package {package.name} is not installed:"
            f' pip install ".[benchmarks]" and pip install --no-deps {pinned}.'
        )
    try:
        version = metadata.version(package.name)
    except metadata.PackageNotFoundError:
        version = "not installed by a package manager"
    return Found(package, version, Path(spec.submodule_search_locations[0]))


def _unpacked(package: Package, folder: Path) -> Found:
    missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
    if missing:
        raise VectunedError(
            f"The Debian package {package.name} has photographs of this set, and there is no"
            f" {' and no '.join(missing)} to get it with: build the set on Debian or Ubuntu,"
            " and copy its folder in the cache from there."
        )
    place = folder / package.name
    place.mkdir(parents=True)
    said = ""
    for wanted in (f"{package.name}={package.version}", package.name):
        said = _run(["apt-get", "-q", "download", wanted], place)
        if archives := sorted(place.glob("*.deb")):
            break
    else:
        raise VectunedError(
            f"apt-get cannot download the Debian package {package.name} ({said}):"
            " run apt-get update, with Debian's main section among the sources."
        )
    if said := _run(["dpkg-deb", "-x", archives[0].name, "content"], place):
        raise VectunedError(
            f"dpkg-deb cannot unpack the Debian package {package.name} ({said}): build again."
        )
    version = subprocess.run(
        ["dpkg-deb", "--field", archives[0].name, "Version"],
        cwd=place,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    archives[0].unlink()
    return Found(package, version, place / "content" / package.root)


def _run(command: list[str], folder: Path) -> str:
    # Returns an empty string on success, otherwise the last line of the command's output.
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, "LC_ALL": "C"},
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not done after {_SECONDS} s"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return printable(lines[-1])
