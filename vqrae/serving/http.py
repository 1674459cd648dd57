"""The HTTP server, uvicorn, with what it lacks: time limits for a request's head and for taking an answer."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from vqrae.runtimes.errors import UsageError
from vqrae.serving.app import Service

MAX_HEAD_BYTES = 16_384
KEEP_ALIVE_SECONDS = 30
CONNECTIONS_PER_REQUEST = 4
"""Connections, idle ones included, for each request that may be inside."""
SPARE_CONNECTIONS = 64


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that holds the address before anything slow is started; port 0 is any free one.

    Raises:
        UsageError: it is taken, or not this machine's.
    """
    with ExitStack() as failing:
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            made = failing.enter_context(socket.socket(family, kind, protocol))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            made.bind(address)
        except OSError as error:
            got = f"{host}:{port}, {error.strerror or error}"
            raise UsageError("address", got=got, expected="a free one of this machine") from error
        failing.pop_all()
    return made


def url_of(bound: socket.socket) -> str:
    """Where a client reaches it."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _TimedProtocol(H11Protocol):
    """Closes a connection whose request head does not arrive, or whose client does not take the answer.

    When there are too many, the oldest of those that wait for their client makes room for a new one.
    """

    _state = "none"
    _deadline: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None
    config: _Config

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._watch("partial")
        everyone = self.config.connections
        everyone[self] = None
        if len(everyone) > self.config.max_connections:
            min(everyone, key=_TimedProtocol._rank).transport.abort()  # the oldest of the lowest rank

    def _rank(self) -> int:
        """Who is closed first: one without a request, then one whose body is still on its way."""
        if not (bool(self.cycle) and not self.cycle.response_complete):
            return 0
        return 1 if self.cycle.more_body else 2

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if bool(self.cycle) and not self.cycle.response_complete:
            self._watch("inside")
        elif self.conn.their_state is h11.IDLE and not self.conn.trailing_data[0]:
            self._watch("idle")  # after the rest of a body that was answered before its end
        else:
            self._watch("partial")

    def _watch(self, state: str) -> None:
        """A deadline for what a client has begun: it does not move with each byte."""
        if state == self._state:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._state, self._deadline = state, None
        if state != "inside":
            seconds = KEEP_ALIVE_SECONDS if state == "idle" else self.config.limits.body_seconds
            self._deadline = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def send_400_response(self, msg: str) -> None:
        """As uvicorn's, in JSON like every refusal."""
        body = json.dumps({"error": msg}).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        for event in (
            h11.Response(status_code=400, headers=list(headers.items()), reason="Bad Request"),
            h11.Data(data=body),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking = self.loop.call_later(self.config.limits.answer_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.config.connections.pop(self, None)
        for timer in (self._deadline, self._taking):
            if timer is not None:
                timer.cancel()


class _Config(uvicorn.Config):
    """What the protocol of every connection is told, and the connections that there are."""

    def __init__(self, service: Service) -> None:
        limits = service.limits
        super().__init__(
            service.app(),
            http=_TimedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            log_level=logging.ERROR,  # a client's mistake is not worth a line
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(limits.body_seconds + limits.answer_seconds),
            h11_max_incomplete_event_size=MAX_HEAD_BYTES,
        )
        self.limits = limits
        self.max_connections = limits.max_queue * CONNECTIONS_PER_REQUEST + SPARE_CONNECTIONS
        self.connections: dict[_TimedProtocol, None] = {}
        """The oldest first."""


class HttpServer(uvicorn.Server):
    """Serves until it is told to stop; then it finishes what is inside."""

    def __init__(self, service: Service) -> None:
        self._service = service
        super().__init__(_Config(service))

    def stop(self) -> None:
        """Take nothing in any more, finish what is inside, and return from `serve`."""
        self._service.gate.closed = True
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """Ours are handled below: uvicorn's own handler would end the process before Ray is shut down."""
        yield


async def serve_until_told(server: HttpServer, bound: socket.socket, started: Callable[[], None]) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain; `started` is called once requests are taken."""
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, server.stop)
    serving = asyncio.create_task(server.serve(sockets=[bound]))
    while not server.started and not serving.done():
        await asyncio.sleep(0.01)
    started()
    await serving
