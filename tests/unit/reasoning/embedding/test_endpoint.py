"""Requests to a model server, and the reasons given when they fail."""

from __future__ import annotations

import pytest
from tests.unit.reasoning.endpoint_helpers import Server

from vectuned.config.errors import ConfigurationError
from vectuned.reasoning.embedding.endpoint import Endpoint, EndpointError


def test_post_raises_errors_with_the_reason(model_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = Endpoint(model_server.url)
    model_server.reply = {"a": 1}
    assert endpoint.post("x", {"b": 2}) == {"a": 1}
    assert model_server.requests[0][0] == "/v1/x"
    assert "Authorization" not in model_server.requests[0][1]
    for status in (302, 500):
        model_server.status = status
        with pytest.raises(EndpointError, match=f"^HTTP status {status}$"):
            endpoint.post("x", {})
    model_server.status, model_server.reply = 200, b"<html>"
    with pytest.raises(EndpointError, match="no JSON"):
        endpoint.post("x", {})
    model_server.trickle, model_server.reply = 0.05, b'{"never": "ends at all"}'
    with pytest.raises(EndpointError, match=r"no reply within 0.2 s"):
        Endpoint(model_server.url, seconds=0.2).post("x", {})
    with pytest.raises(EndpointError, match="no connection"):
        Endpoint("http://127.0.0.1:1/v1", seconds=0.2).post("x", {})
    with pytest.raises(ConfigurationError, match="is no address of a model server"):
        Endpoint("file:///etc/passwd")
    keyed = Endpoint(model_server.url, key_variable="SOME_KEY")
    monkeypatch.delenv("SOME_KEY", raising=False)
    with pytest.raises(EndpointError, match="SOME_KEY holds no key"):
        keyed.post("x", {})
    model_server.trickle, model_server.reply = 0.0, {}
    monkeypatch.setenv("SOME_KEY", "s3cret")
    keyed.post("x", {})
    assert model_server.requests[-1][1]["Authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(keyed)
