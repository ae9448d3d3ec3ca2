"""Sockets that listen, and the addresses of servers."""

import socket

# Hosts that only this machine reaches.
LOOPBACK_HOSTS = {"127.0.0.1", "localhost", "::1"}


def listen(host: str, port: int = 0) -> socket.socket:
    """A socket that listens at a host's name or address, at a free port for 0. OSError where it cannot."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def free_port(host: str) -> int:
    """A port at which nothing listens. OSError where nothing can listen at that host."""
    with listen(host) as listener:
        return int(listener.getsockname()[1])


def http_address(host: str, port: int) -> str:
    """http://HOST:PORT, with an IPv6 address in brackets."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
