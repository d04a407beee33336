"""Sets of vectors for the benchmarks: built once from packages, then read from a cache folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from time import monotonic
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import platformdirs

from benchmarks.packages import sha256
from benchmarks.set_definitions import Builder, Built, Definition, Ints, definitions
from vectuned.config.errors import UsageError, VectunedError
from vectuned.daemon.console import Console
from vectuned.learning.model.arrays import Singles

CACHE_VARIABLE: Final = "VECTUNED_BENCHMARK_CACHE"
_DESCRIPTION: Final = "set.json"
_BUILDERS: Final = {"wordnet": ".wordnet_sets", "photos": ".photos"}


@dataclass(frozen=True)
class VectorSet:
    """Rows to search, float32 (n, d), and disjoint training and held-out queries.

    The rows are in a random order by the set's seed, so the first ones are a sample; they may be a memory
    map. Each row has one of the categories, which are real and skewed; a query has the category it belongs
    to.
    """

    name: str
    metric: Literal["cosine", "l2"]
    rows: Singles
    categories: Ints
    training: Singles
    training_categories: Ints
    heldout: Singles
    heldout_categories: Ints


def names() -> tuple[str, ...]:
    """Return the names of all sets."""
    return tuple(definitions())


def load(name: str, console: Console, rows: int | None = None) -> VectorSet:
    """Read a set, building it first if it is not cached; `rows` limits it to the first rows."""
    definition = definition_of(name)
    return read(definition, ensure(definition, cache_folder(), console), rows)


def command(names: Sequence[str], console: Console) -> None:
    """Build the named sets, or all, verify the cached ones, and print a table."""
    chosen = [definition_of(name) for name in names or definitions()]
    cache, told = cache_folder(), []
    for definition in chosen:
        folder = ensure(definition, cache, console)
        told.append({"name": definition.name, "folder": str(folder), **check(folder)})
    console.document(told) if console.as_json else _print(told, console)


def definition_of(name: str) -> Definition:
    """Return the definition of a set; UsageError if there is no such set."""
    if name not in definitions():
        raise UsageError(f"There is no set {name!r} of vectors; known are {', '.join(definitions())}.")
    return definitions()[name]


def cache_folder() -> Path:
    """Return the cache folder of the sets."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser().absolute()
    return platformdirs.user_cache_path("vectuned") / "benchmarks"


def ensure(definition: Definition, cache: Path, console: Console, builder: Builder | None = None) -> Path:
    """Return the folder of a set, building it first if necessary.

    A set is written atomically, and sets of older definitions are deleted. `builder` replaces the builder of
    the set's kind.
    """
    own = cache / definition.name
    folder = own / definition.digest[:16]
    if (folder / _DESCRIPTION).exists():
        return folder
    try:
        with _alone(own, definition.name, console):
            if not (folder / _DESCRIPTION).exists():  # no other process built it meanwhile
                _build(definition, folder, builder or _builder(definition), console)
    except OSError as error:
        raise VectunedError(
            f"Set {definition.name} cannot be kept in {own} ({error.strerror or error}):"
            f" make room or rights there, or name another folder by {CACHE_VARIABLE}."
        ) from error
    return folder


def read(definition: Definition, folder: Path, rows: int | None = None) -> VectorSet:
    """Read a set from its folder, the rows as a memory map."""
    arrays = {name: _array(folder, name) for name in _arrays()}
    whole = len(arrays["rows"])
    if rows is not None and not 1 <= rows <= whole:
        raise UsageError(f"Set {definition.name} has {whole:,} rows: take 1 to {whole:,}, not {rows:,}.")
    for name in ("rows", "categories"):
        arrays[name] = arrays[name][:rows]
    return VectorSet(definition.name, definition.metric, **arrays)


def check(folder: Path) -> dict[str, Any]:
    """Return the description of a cached set; raise VectunedError if its files do not match it."""
    description: dict[str, Any] = json.loads((folder / _DESCRIPTION).read_text())
    for file, wanted in description["files"].items():
        if not (folder / file).is_file() or sha256(folder / file) != wanted:
            raise VectunedError(
                f"{folder / file} is damaged: delete the folder {folder}, and build it again."
            )
    return description


def _builder(definition: Definition) -> Builder:
    if definition.kind not in _BUILDERS:
        raise VectunedError(
            f"Set {definition.name}: kind is {' or '.join(_BUILDERS)}, not {definition.kind!r}."
        )
    # Imports only the requirements of this kind.
    build: Builder = import_module(_BUILDERS[definition.kind], __package__).build
    return build


def _build(definition: Definition, folder: Path, builder: Builder, console: Console) -> None:
    started = monotonic()
    unfinished, kept = folder.with_name("unfinished"), folder.with_name("parts")
    shutil.rmtree(unfinished, ignore_errors=True)  # left by a killed build
    kept.mkdir(exist_ok=True)
    unfinished.mkdir()
    resumed = any(kept.iterdir())
    try:
        built = builder(definition, kept, console)
        arrays = _arranged(definition, built)
        with console.progress(f"writing {definition.name}", len(arrays)) as progress:
            for number, (name, array) in enumerate(arrays.items(), 1):
                np.save(unfinished / f"{name}.npy", array)
                progress(number)
        description = {
            "definition": definition.digest,
            "metric": definition.metric,
            "rows": len(built.rows),
            "dimensions": definition.dimensions,
            "training": definition.training,
            "heldout": definition.heldout,
            "duplicates left out": built.duplicates,
            "categories": _counts(built),
            "packages": [source.record() for source in built.sources],
            "libraries": dict(built.libraries),
            "files": {f"{name}.npy": sha256(unfinished / f"{name}.npy") for name in arrays},
            "bytes": sum(file.stat().st_size for file in unfinished.iterdir()),
            "seconds": round(monotonic() - started, 1),
            "resumed": resumed,  # then the seconds are those of the last attempt
        }
        (unfinished / _DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    for other in folder.parent.iterdir():
        if other.is_dir() and other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _arranged(definition: Definition, built: Built) -> dict[str, npt.NDArray[Any]]:
    """Split the distinct queries, and convert all arrays to the types they are stored in."""
    for vectors, categories in (
        (built.rows, built.categories),
        (built.queries, built.query_categories),
    ):
        if vectors.shape != (len(categories), definition.dimensions) or not len(vectors):
            raise VectunedError(
                f"Set {definition.name}: vectors of shape {vectors.shape} were built for {len(categories)}"
                f" categories, where {definition.dimensions} dimensions are said."
            )
    queries = built.queries.astype(np.float32)
    distinct = np.sort(np.unique(queries, axis=0, return_index=True)[1])[: definition.queries]
    if len(distinct) < definition.queries:
        raise VectunedError(
            f"Set {definition.name}: {len(distinct):,} different queries were found, and"
            f" {definition.queries:,} are wanted: lower training or heldout in sets.toml."
        )
    training, heldout = np.split(distinct, [definition.training])
    return {
        "rows": built.rows.astype(np.float32, copy=False),
        "categories": built.categories.astype(np.int16),
        "training": queries[training],
        "training_categories": built.query_categories[training].astype(np.int16),
        "heldout": queries[heldout],
        "heldout_categories": built.query_categories[heldout].astype(np.int16),
    }


def _arrays() -> Iterator[str]:
    return (name for name in VectorSet.__dataclass_fields__ if name not in ("name", "metric"))


def _array(folder: Path, name: str) -> npt.NDArray[Any]:
    array: npt.NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="r" if name == "rows" else None)
    return array


def _counts(built: Built) -> Mapping[str, int]:
    counts = np.bincount(built.categories, minlength=len(built.category_names))
    return {name: int(count) for name, count in zip(built.category_names, counts, strict=True)}


@contextmanager
def _alone(folder: Path, name: str, console: Console) -> Iterator[None]:
    """Hold the lock on building in a folder; it is released when the process ends for any reason."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as file:
        lock = partial(fcntl.flock, file)
        try:
            lock(fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.say(f"Another process builds {name}: waiting for it.")
            lock(fcntl.LOCK_EX)
        yield


def _print(told: Sequence[Mapping[str, Any]], console: Console) -> None:
    columns = ("set", "metric", "rows", "dims", "queries", "categories", "MB", "built in s")
    rows = [
        (
            each["name"],
            each["metric"],
            f"{each['rows']:,}",
            str(each["dimensions"]),
            f"{each['training']:,} + {each['heldout']:,}",
            str(sum(count > 0 for count in each["categories"].values())),
            f"{each['bytes'] / 1e6:,.0f}",
            f"{each['seconds']:,.1f}" + (" (resumed)" if each["resumed"] else ""),
        )
        for each in told
    ]
    console.table(columns, rows, left=2)
    for each in told:
        console.say(f"{each['name']}: {each['folder']}")
