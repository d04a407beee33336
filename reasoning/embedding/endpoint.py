"""Requests to a model server over HTTP, with the protocol of OpenAI's API."""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Any, Final

from vectuned.config.errors import ConfigurationError

_CHUNK: Final = 65536  # bytes read at once: the deadline is checked after each
_MAX_BYTES: Final = 64 << 20  # of a reply: thousands of vectors; more is not a reply


class EndpointError(Exception):
    """An endpoint did not answer as expected; the message contains nothing secret."""


@dataclass(frozen=True)
class Endpoint:
    """A server at `url`, such as http://127.0.0.1:8080/v1.

    `key_variable` names the environment variable with the key, which is read for each request. Redirects are
    not followed, since they would send the key to another server.
    """

    url: str
    seconds: float = 30.0
    key_variable: str = ""

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(
                f"{self.url!r} is no address of a model server: write it like http://127.0.0.1:8080/v1."
            )

    def post(self, path: str, body: object) -> Any:
        """Send JSON to a path below the URL and return the JSON reply; raises EndpointError."""
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.key_variable:
            key = os.environ.get(self.key_variable, "")
            if not key:
                raise EndpointError(f"the variable {self.key_variable} holds no key")
            headers["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            f"{self.url.rstrip('/')}/{path}", json.dumps(body).encode(), headers, method="POST"
        )
        try:
            with _OPENER.open(request, timeout=self.seconds) as reply:
                return json.loads(_read(reply, time.monotonic() + self.seconds))
        except urllib.error.HTTPError as error:
            error.close()
            raise EndpointError(f"HTTP status {error.code}") from error
        except TimeoutError as error:
            raise EndpointError(f"no reply within {self.seconds:g} s") from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            late = isinstance(getattr(error, "reason", None), TimeoutError)
            reason = f"no reply within {self.seconds:g} s" if late else "no connection"
            raise EndpointError(reason) from error
        except ValueError as error:
            raise EndpointError("a reply that is no JSON") from error


def _read(reply: http.client.HTTPResponse, deadline: float) -> bytes:
    """Read a reply to its end; the socket's timeout alone would allow an endless slow reply."""
    parts: list[bytes] = []
    size = 0
    while part := reply.read1(_CHUNK):
        parts.append(part)
        size += len(part)
        if size > _MAX_BYTES:
            raise EndpointError(f"a reply of more than {_MAX_BYTES >> 20} MB")
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(parts)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


_OPENER: Final = urllib.request.build_opener(_NoRedirects)
