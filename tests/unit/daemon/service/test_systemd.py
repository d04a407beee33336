"""`Notifier`: notifications for a service manager."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from vectuned.daemon.service.systemd import Notifier


def test_notifier_without_a_listening_manager_does_nothing(tmp_path: Path) -> None:
    for path in ("", "nonsense", "vsock:2:1", f"{tmp_path}/nothing", "@nothing-at-all"):
        environ = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "soon", "OTHER": "stays"}
        notifier = Notifier(environ)
        notifier.ready()
        notifier.status("two\nlines")
        assert notifier.watchdog_seconds is None
        assert environ == {"OTHER": "stays"}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"{tmp_path}/listener")
        environ = {"NOTIFY_SOCKET": f"{tmp_path}/listener", "WATCHDOG_USEC": "3000000"}
        for pid, seconds in ((None, 3), (os.getpid(), 3), (1, None)):
            more = {} if pid is None else {"WATCHDOG_PID": str(pid)}
            notifier = Notifier({**environ, **more})
            assert notifier.watchdog_seconds == seconds
        notifier.status("two\nlines")
        assert listener.recv(100) == b"STATUS=two lines"
