"""A model server for the tests of embedders and generators."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tests.unit.reasoning.endpoint_helpers import Server


@pytest.fixture
def model_server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()
