"""A set of SIFT descriptors of photographs, by octave of the keypoints; queries are from other photos."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks import packages
from benchmarks.set_definitions import Built, Definition, Ints
from vectuned.config.errors import VectunedError
from vectuned.daemon.console import Console

Bytes = npt.NDArray[np.uint8]


def build(definition: Definition, kept: Path, console: Console) -> Built:
    """Compute the descriptors of all photographs; each distinct descriptor becomes one row.

    Options of the set: `longest`, the length in pixels to which the longer side of larger photographs is
    reduced, which bounds the memory; `contrast_threshold` and `edge_threshold` of the detector; `octaves`, of
    which the last includes all higher ones; `rows`, the maximum; `query_photos`, the files of the queries.
    """
    options = definition.options
    if definition.dimensions != 128:
        raise VectunedError(f"Set {definition.name}: SIFT has 128 dimensions, not {definition.dimensions}.")
    try:
        cv2: Any = import_module("cv2")
    except ImportError as error:
        raise VectunedError(
            'SIFT needs the Python package opencv-python-headless: pip install ".[benchmarks]".'
        ) from error
    sift = cv2.SIFT_create(
        contrastThreshold=options["contrast_threshold"], edgeThreshold=options["edge_threshold"]
    )
    with tempfile.TemporaryDirectory() as temporary:
        with console.progress("getting photographs", len(definition.packages)) as progress:
            sources = []
            for number, package in enumerate(definition.packages, 1):
                sources.append(packages.find(package, Path(temporary)))
                progress(number)
        photos = [(file, found.path(file)) for found in sources for file in sorted(found.package.files)]
        asked = set(options["query_photos"])
        if unknown := asked - {file for file, _ in photos}:
            raise VectunedError(f"Set {definition.name}: no package has the photograph {sorted(unknown)[0]}.")
        parts: dict[bool, list[tuple[Bytes, Ints]]] = {True: [], False: []}
        with console.progress("describing photographs", len(photos)) as progress:
            for number, (file, path) in enumerate(photos, 1):
                part = _describe(cv2, sift, path, options["longest"], options["octaves"])
                parts[file in asked].append(part)
                progress(number)
    rng = np.random.default_rng(definition.seed)
    queries, query_categories = _joined(parts[True])
    drawn = rng.permutation(len(queries))
    rows, categories = _joined(parts[False])
    distinct = np.sort(np.unique(_keys(rows), return_index=True)[1])
    order = rng.permutation(distinct)[: options["rows"]]
    last = options["octaves"] - 2
    return Built(
        rows=rows[order],
        categories=categories[order],
        queries=queries[drawn],
        query_categories=query_categories[drawn],
        category_names=(*(f"octave {n}" for n in range(-1, last)), f"octave {last} and above"),
        duplicates=len(rows) - len(distinct),
        sources=tuple(sources),
        libraries={"opencv": cv2.__version__, "numpy": np.__version__},
    )


def _describe(cv2: Any, sift: Any, path: Path, longest: int, octaves: int) -> tuple[Bytes, Ints]:
    """Return a photograph's descriptors (n, 128), integers from 0 to 255, and the octave of each, from 0."""
    picture = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if picture is None:
        raise VectunedError(
            f"The photograph {path.name} cannot be read: opencv was built without its format."
        )
    scale = longest / max(picture.shape)
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    keypoints, descriptors = sift.detectAndCompute(picture, None)
    if descriptors is None:
        return np.empty((0, 128), np.uint8), np.empty(0, np.int16)
    # The lowest byte, signed: -1 stands for the image enlarged to twice its size.
    octave = np.array([keypoint.octave & 255 for keypoint in keypoints], np.uint8).view(np.int8)
    return descriptors.astype(np.uint8), np.minimum(octave + 1, octaves - 1).astype(np.int16)


def _joined(parts: Sequence[tuple[Bytes, Ints]]) -> tuple[Bytes, Ints]:
    return np.concatenate([d for d, _ in parts]), np.concatenate([o for _, o in parts])


def _keys(rows: Bytes) -> npt.NDArray[np.void]:
    return np.ascontiguousarray(rows).view(np.dtype((np.void, rows.shape[1])))[:, 0]
