"""The real HTTP server in a thread of this process."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from vqrae.serving.app import Service
from vqrae.serving.http import HttpServer, bound_socket


@contextmanager
def running(service: Service) -> Iterator[tuple[HttpServer, int]]:
    """The server in a thread, and its port."""
    server = HttpServer(service)
    with bound_socket("127.0.0.1", 0) as bound:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[bound])))
        thread.start()
        while not server.started:
            time.sleep(0.005)
        yield server, bound.getsockname()[1]
        server.stop()
        thread.join(10)
        assert not thread.is_alive()
