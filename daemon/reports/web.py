"""The HTTP server of the metrics and of the report: read-only, with bounds on time and on requests."""

from __future__ import annotations

import ipaddress
import logging
import socket
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from html import escape
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, make_wsgi_app

from vectuned.config.errors import UsageError

from .metrics import STATEMENT_TIMEOUT_MS, StatusCollector
from .page import compose_page, live_policy
from .report import join_bodies, render_report
from .sources import Source, Sources

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

_REPORT_TIMEOUT_MS: Final = 30_000  # for one statement: reading the replays of a large window takes seconds
_FRESH_SECONDS: Final = 10.0  # for which a rendered report serves, however many browsers ask for it
_REQUEST_SECONDS: Final = 10.0  # for a client to send its request and to take the answer in
_MOST_REQUESTS: Final = 16  # at the same time, each a thread; more are turned away
_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


@contextmanager
def serve_metrics(
    listen: str, sources: Mapping[str, Source], *, report: bool = False
) -> Iterator[int | None]:
    """Serve /metrics at `listen`, "host:port", and with `report` the report at /; yield the port.

    If `listen` is empty, serve nothing. Raises UsageError if the address cannot be listened at.
    """
    if not listen:
        yield None
        return
    with ExitStack() as stack:
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        collector = StatusCollector(Sources(sources, STATEMENT_TIMEOUT_MS, "metrics"))
        stack.callback(collector.close)
        registry.register(collector)
        routes = {"/metrics": make_wsgi_app(registry)}
        if report:
            routes["/"] = stack.enter_context(_report_page(sources))
        port = stack.enter_context(_serve(listen, routes, "Metrics", "metrics.listen"))
        log.info("metrics at http://%s/metrics", _address(listen, port), extra={"action": "metrics"})
        if report:
            log.info("report at http://%s/", _address(listen, port), extra={"action": "report"})
        yield port


@contextmanager
def serve_report(listen: str, sources: Mapping[str, Source]) -> Iterator[str]:
    """Serve the report at `listen`, "host:port", and yield its URL.

    Raises UsageError if the address cannot be listened at.
    """
    with _report_page(sources) as page, _serve(listen, {"/": page}, "The report", "--serve") as port:
        yield f"http://{_address(listen, port)}/"


@contextmanager
def _report_page(sources: Mapping[str, Source]) -> Iterator[WSGIApplication]:
    page = ReportPage(Sources(sources, _REPORT_TIMEOUT_MS, "report"))
    try:
        yield page
    finally:
        page.close()


class ReportPage:
    """A WSGI application: the report of all databases, rendered at most every ten seconds."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._lock = threading.Lock()
        self._rendered: tuple[float, str, bytes] | None = None  # when, with which status, and what

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer GET and HEAD."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return _answer(
                environ, start_response, "405 Method Not Allowed", "Only GET.", [("Allow", "GET, HEAD")]
            )
        status, document = self._render()
        start_response(
            status,
            [
                ("Content-Type", "text/html; charset=utf-8"),
                ("Content-Length", str(len(document))),
                ("Content-Security-Policy", f"{live_policy()}; frame-ancestors 'none'"),
                *_HEADERS,
            ],
        )
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [document]

    def close(self) -> None:
        """Close the connections."""
        self._sources.close()

    def _render(self) -> tuple[str, bytes]:
        with self._lock:
            now = time.monotonic()
            if self._rendered is None or now - self._rendered[0] > _FRESH_SECONDS:
                status, document = self._compose()
                self._rendered = (time.monotonic(), status, document)
            return self._rendered[1:]

    def _compose(self) -> tuple[str, bytes]:
        parts, readable = [], False
        for name, report in self._sources.read(render_report):
            if report is None:
                text = f"Database {name} cannot be read now; the log of what serves this page says why."
                parts.append(
                    f'<h1>vectuned: database {escape(name)}</h1><p class="verdict unknown">{escape(text)}</p>'
                )
            else:
                parts.append(join_bodies([report]))
                readable = True
        document = compose_page("vectuned", "\n".join(parts), live=True)
        return "200 OK" if readable else "503 Service Unavailable", document.encode()


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each request, up to a number of them."""

    daemon_threads = True

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        self._slots = threading.BoundedSemaphore(_MOST_REQUESTS)
        super().__init__(*arguments, **keywords)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a request, or end the connection if there are too many."""
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Handle one request in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log what went wrong with a client, such as one that sends nothing."""
        log.debug("a request from %s failed", client_address, exc_info=True, extra={"action": "request"})


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a request changes nothing."""


@contextmanager
def _serve(listen: str, routes: Mapping[str, WSGIApplication], subject: str, setting: str) -> Iterator[int]:
    """Serve applications by path and yield the port; `subject` and `setting` say in errors what is served."""
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    server_class = _Server6 if ":" in host else _Server
    try:
        server = make_server(host, int(port), _not_found, server_class, _Handler)
    except (OSError, OverflowError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{subject} cannot be served at {listen} ({setting}): {reason}.") from error
    address = ipaddress.ip_address(str(server.server_address[0]))
    public = () if address.is_loopback else ("/metrics",)
    server.set_app(_Router(routes, {host, server.server_name, socket.gethostname()}, public))
    thread = threading.Thread(target=server.serve_forever, name=subject, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Router:
    """A WSGI application that passes requests on by their path, if the Host that they name is ours.

    A page from elsewhere could make a browser resolve the page's own name to our address, and so read what
    we serve (DNS rebinding). Such a request has that name as its Host. Addresses cannot be taken over so.
    Paths that are `public` are served under every name: Prometheus may know the machine by another one.
    """

    def __init__(
        self, routes: Mapping[str, WSGIApplication], names: set[str], public: Collection[str] = ()
    ) -> None:
        self._routes = routes
        self._names = {name.lower() for name in names}
        self._public = public

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        path = environ["PATH_INFO"] or "/"
        if path not in self._public and not self.is_known(environ.get("HTTP_HOST", "")):
            text = "This is not a name of this server: use its address, or its host name."
            return _answer(environ, start_response, "403 Forbidden", text)
        return self._routes.get(path, _not_found)(environ, start_response)

    def is_known(self, header: str) -> bool:
        """Return whether a Host header is empty, an address, localhost, or a name of this machine."""
        if not header:  # not from a browser, which always sends one
            return True
        try:
            name = urlsplit(f"//{header}").hostname or ""
        except ValueError:
            return False
        return _is_address(name) or name == "localhost" or name.rstrip(".") in self._names


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _not_found(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return _answer(environ, start_response, "404 Not Found", "Nothing is served under this path.")


def _answer(
    environ: WSGIEnvironment,
    start_response: StartResponse,
    status: str,
    text: str,
    headers: Iterable[tuple[str, str]] = (),
) -> Iterable[bytes]:
    body = f"{text}\n".encode()
    length = ("Content-Length", str(len(body)))
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), length, *_HEADERS, *headers])
    return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


def _address(listen: str, port: int) -> str:
    return f"{listen.rpartition(':')[0]}:{port}"
