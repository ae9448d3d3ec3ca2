"""Clients of the service that hold connections open: thousands that say nothing, and some that speak very slowly."""

import resource
import socket
import threading
import time
from contextlib import ExitStack, contextmanager, suppress

import httpx
import psutil
import pytest
import uvicorn
from starlette.middleware.exceptions import ExceptionMiddleware

from wastetune.network import listen
from wastetune.serving.server import BoundedConnection, serve_at
from wastetune.serving.uploads import BoundedBody

HEAD = b"GET /health HTTP/1.1\r\nHost: x\r\n"


async def app(scope, receive, send):
    """Answers after the whole body has come."""
    if scope["type"] == "lifespan":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextmanager
def served(monkeypatch, app=app, **limits):
    """The port of an app behind connections with these limits, in a thread of this process."""
    for name, value in limits.items():
        monkeypatch.setattr(BoundedConnection, name, value)
    servers = []

    class Server(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            servers.append(self)

        @contextmanager
        def capture_signals(self):  # only the main thread may
            yield

    monkeypatch.setattr("wastetune.serving.server.uvicorn.Server", Server)
    with listen("127.0.0.1") as listener:
        options = {"websockets": False, "grace": 1, "echo": lambda address: None}
        thread = threading.Thread(target=serve_at, args=(listener, app), kwargs=options)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            servers[0].should_exit = True
            thread.join(30)


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=30)


def read_all(client):
    """What comes until the server closes; a reset counts as closing."""
    content = b""
    try:
        while more := client.recv(1000):
            content += more
    except ConnectionResetError:
        pass
    return content


def test_a_client_that_says_nothing_or_only_a_byte_now_and_then_is_cut_off(monkeypatch):
    with served(monkeypatch, patience=0.4) as port, connect(port) as silent, connect(port) as dribbling:
        ended = threading.Event()

        def dribble():
            for byte in HEAD * 100:
                if ended.wait(0.1):
                    return
                try:
                    dribbling.send(bytes([byte]))
                except OSError:
                    return

        thread = threading.Thread(target=dribble)
        thread.start()
        started = time.monotonic()
        assert read_all(silent) == b""
        assert read_all(dribbling) == b""
        assert time.monotonic() - started < 5
        ended.set()
        thread.join()


def test_a_client_that_dribbles_its_second_request_is_cut_off_and_one_in_progress_is_not(monkeypatch):
    with served(monkeypatch, patience=0.4) as port, connect(port) as client, connect(port) as uploading:
        uploading.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")
        client.sendall(HEAD + b"\r\n" + HEAD)  # a whole request, and a second one that has no end
        assert read_all(client).endswith(b"ok")
        time.sleep(1)  # longer than the patience
        uploading.sendall(b"0123456789")
        assert b"200 OK" in uploading.recv(1000)


def test_slow_senders_of_bodies_are_answered_and_cut_off_and_hold_up_nobody(monkeypatch):
    bounded = BoundedBody(ExceptionMiddleware(app), most=10_000, together=100_000, seconds=0.6)
    with served(monkeypatch, bounded, patience=0.4) as port, ExitStack() as stack:
        slow = [stack.enter_context(connect(port)) for _ in range(50)]
        for client in slow:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
        ended = threading.Event()

        def dribble():
            while not ended.wait(0.1):
                for client in slow:
                    with suppress(OSError):
                        client.send(b"x")

        thread = threading.Thread(target=dribble)
        thread.start()
        started = time.monotonic()
        quick = httpx.post(f"http://127.0.0.1:{port}/", content=b"all at once", timeout=30, trust_env=False)
        assert quick.status_code == 200
        # Each is told why, and closed though it goes on sending; a reset may take the answer with it.
        answers = [read_all(client) for client in slow]
        assert time.monotonic() - started < 20
        ended.set()
        thread.join()
        told = [answer for answer in answers if answer]
        assert len(told) > 25
        assert all(b" 408 " in answer[:20] and b"did not arrive within 0.6 seconds" in answer for answer in told)


def test_a_head_without_end_is_refused(monkeypatch):
    with served(monkeypatch) as port, connect(port) as client:
        try:
            client.sendall(HEAD + b"X-Long: " + b"x" * 10_000_000)
        except OSError:  # it was cut off in the middle
            return
        assert b" 400 " in read_all(client)[:20]


def test_thousands_of_idle_connections_make_room_for_whoever_asks(monkeypatch):
    count, most = 2500, 600
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 8000:
        pytest.skip("this process may not open enough files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 8000), hard))
    try:
        with ExitStack() as stack, served(monkeypatch, most=most) as port:
            address = ("127.0.0.1", port)
            before = psutil.Process().memory_info().rss
            for _ in range(count):
                stack.enter_context(socket.create_connection(address, timeout=30))
            for _ in range(5):
                started = time.monotonic()
                answer = httpx.get(f"http://127.0.0.1:{port}/health", timeout=30, trust_env=False)
                assert (answer.status_code, time.monotonic() - started < 10) == (200, True)
            mine = [each for each in psutil.Process().net_connections("tcp") if each.laddr and each.laddr.port == port]
            assert len([each for each in mine if each.status == "ESTABLISHED"]) <= most + 1
            assert psutil.Process().memory_info().rss - before < 150e6
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_where_all_connections_are_busy_the_next_one_is_closed(monkeypatch):
    with served(monkeypatch, most=3) as port, ExitStack() as stack:
        busy = [stack.enter_context(connect(port)) for _ in range(3)]
        for client in busy:
            client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n")
        time.sleep(0.5)
        with connect(port) as late:
            assert read_all(late) == b""
        for client in busy:
            client.sendall(b"x")
            assert b"200 OK" in client.recv(1000)
