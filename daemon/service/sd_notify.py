"""What the service manager is told: sd_notify's datagrams, and how often it wants to hear of us."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

log = logging.getLogger(__name__)

_VARIABLES: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
_PATIENCE_SECONDS: Final = 1.0


class Notifier:
    """Tell systemd, or whoever named a socket in NOTIFY_SOCKET, how the service is; else tell nobody.

    The variables are taken out of `environ`, lest a child such as the embedded server speaks for us.
    `watchdog_seconds` is the time within which `alive` has to be called, None where nobody waits for it.
    What goes wrong with the socket never stops the service.
    """

    def __init__(self, environ: MutableMapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        place, limit, pid = (environ.pop(name, "") for name in _VARIABLES)
        self._address: str | bytes | None = None
        if place.startswith("/"):
            self._address = place
        elif place.startswith("@"):
            self._address = b"\0" + os.fsencode(place[1:])
        ours = pid in ("", str(os.getpid()))
        wanted = self._address is not None and ours and limit.isdigit() and int(limit) > 0
        self.watchdog_seconds = int(limit) / 1e6 if wanted else None

    def ready(self) -> None:
        """Say that the service works, at first or again after a reload."""
        self._send("READY=1")

    def reloading(self) -> None:
        """Say that the settings are being read again."""
        # Without the time systemd 253 and later take no notice.
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """Say that the service is about to end."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """Say in a line how things are."""
        self._send("STATUS=" + " ".join(text.split()))

    def alive(self) -> None:
        """Say that work goes on."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.settimeout(_PATIENCE_SECONDS)  # a manager that does not read must not hold us up
                channel.sendto("\n".join(lines).encode(), self._address)
        except OSError as error:
            log.debug("the service manager was not told %s: %s", lines[0], error, extra={"action": "notify"})
