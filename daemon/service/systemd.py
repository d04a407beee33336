"""Notify the service manager by the protocol of sd_notify(3), and read its watchdog interval."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

log = logging.getLogger(__name__)

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_SEND_SECONDS: Final = 1.0  # timeout of a datagram: a manager that does not read must not block the service


class Notifier:
    """Send notifications to systemd, or another manager, at the socket NOTIFY_SOCKET; without one do nothing.

    The variables are removed from `environ`, so that no child, such as the embedded server, sends
    notifications in our name. `watchdog_seconds` is the longest interval between calls of `alive`, None if
    there is no watchdog. An error of the socket never stops the service.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        path, limit, pid = (environ.pop(name, "") for name in _VARIABLES)
        self._address: str | bytes | None = None
        if path.startswith("/"):
            self._address = path
        elif path.startswith("@"):
            self._address = b"\0" + os.fsencode(path[1:])
        is_ours = pid in ("", str(os.getpid()))
        has_watchdog = self._address is not None and is_ours and limit.isdigit() and int(limit) > 0
        self.watchdog_seconds = int(limit) / 1e6 if has_watchdog else None

    def ready(self) -> None:
        """Report that the service is ready, after the start or a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Report that the settings are being read again."""
        # systemd 253 and later ignore the notification without the time.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Report that the service is stopping."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Report the state of the service in one line."""
        self._send("STATUS=" + " ".join(text.split()))

    def alive(self) -> None:
        """Report to the watchdog that work makes progress."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(_SEND_SECONDS)
                channel.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.debug("the notification %s was not sent: %s", lines[0], error, extra={"action": "notify"})
