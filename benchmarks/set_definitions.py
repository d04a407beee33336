"""Definitions of the sets in `sets.toml`, and the result of building a set."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from benchmarks.packages import Found, Package
from vectuned.daemon.console import Console

Ints = npt.NDArray[np.int16]

_FILE: Final = Path(__file__).with_name("sets.toml")
_FORMAT: Final = 1  # of the files in the cache; changing it rebuilds all sets


@dataclass(frozen=True)
class Definition:
    """Definition of a set: everything its vectors depend on, except the versions of libraries.

    `training` and `heldout` are numbers of queries; `options` are those of the kind of set.
    """

    name: str
    kind: str
    metric: Literal["cosine", "l2"]
    dimensions: int
    seed: int
    training: int
    heldout: int
    packages: tuple[Package, ...]
    options: Mapping[str, Any]

    @property
    def queries(self) -> int:
        """The total number of queries."""
        return self.training + self.heldout

    @property
    def digest(self) -> str:
        """The SHA-256 of the definition, which identifies the set."""
        said = {key: value for key, value in vars(self).items() if key != "packages"}
        said["packages"] = [vars(package) for package in self.packages]
        said["format"] = _FORMAT
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Built:
    """A set as returned by its builder.

    `rows` (n, d) and `queries` (m, d), of any numeric type, each with its categories (numbers into
    `category_names`), are in random order, with some queries to spare, because repeated ones are left
    out. `duplicates` is the number of rows left out because they equal another.
    """

    rows: npt.NDArray[Any]
    categories: Ints
    queries: npt.NDArray[Any]
    query_categories: Ints
    category_names: tuple[str, ...]
    duplicates: int
    sources: tuple[Found, ...]
    libraries: Mapping[str, str]


Builder = Callable[[Definition, Path, Console], Built]
"""Takes a definition, a folder that survives a build broken off, and the console."""


@cache
def definitions() -> Mapping[str, Definition]:
    """Read the definitions of all sets."""
    with _FILE.open("rb") as file:
        return {name: read_definition(name, table) for name, table in tomllib.load(file).items()}


def read_definition(name: str, table: Mapping[str, Any]) -> Definition:
    """Make a definition from its table in the file; raise KeyError or TypeError if something is missing."""
    options = dict(table)
    packages = tuple(Package(**package) for package in options.pop("packages"))
    own = {key: options.pop(key) for key in ("kind", "metric", "dimensions", "seed", "training", "heldout")}
    return Definition(name=name, packages=packages, options=options, **own)
