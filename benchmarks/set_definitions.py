"""What `sets.toml` says of each set, and what the builders of sets hand over."""

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
_FORMAT: Final = 1  # of the files in the cache; whoever changes it has all sets built anew


@dataclass(frozen=True)
class Definition:
    """A set as data: everything its vectors depend on, but for the versions of libraries.

    `training` and `heldout` are numbers of queries; `options` are what only this kind of set has.
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
        """The number of queries in all."""
        return self.training + self.heldout

    @property
    def digest(self) -> str:
        """The SHA-256 of the definition: another one, another set."""
        said = {key: value for key, value in vars(self).items() if key != "packages"}
        said["packages"] = [vars(package) for package in self.packages]
        said["format"] = _FORMAT
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Built:
    """A set as its builder hands it over.

    `rows` (n, d) and `queries` (m, d), of any numeric type, each with its categories (numbers into
    `category_names`), are in the order drawn; a few queries more than are wanted, as repeated ones are left
    out. `duplicates` is the number of rows that were left out because another is equal.
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
    """Make a definition of its table in the file; KeyError or TypeError if something is missing."""
    options = dict(table)
    packages = tuple(Package(**package) for package in options.pop("packages"))
    own = {key: options.pop(key) for key in ("kind", "metric", "dimensions", "seed", "training", "heldout")}
    return Definition(name=name, packages=packages, options=options, **own)
