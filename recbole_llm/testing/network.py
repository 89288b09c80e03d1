"""Refusing the network, and heavy packages, inside a test."""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

HEAVY = ("torch", "transformers", "sentence_transformers", "peft", "openai", "huggingface_hub", "recbole", "sklearn")


class NetworkRefused(OSError):
    """A socket was opened where none may be."""


@contextmanager
def no_network(loopback: bool = False) -> Iterator[list[Any]]:
    """Refuses every internet connection and name look-up within the block.

    Args:
        loopback: whether 127.0.0.1, ::1 and localhost are allowed.

    Yields: the addresses that were refused, in order. Code that swallows the error is thereby still found out.
    """
    refused: list[Any] = []
    kept = {n: getattr(socket.socket, n) for n in ("connect", "connect_ex", "sendto")}
    look_up = socket.getaddrinfo

    def check(address: Any) -> None:
        if isinstance(address, tuple) and not (loopback and _is_loopback(address[0])):
            refused.append(address)
            raise NetworkRefused(f"network is refused in this test: {address}")

    def connect(self: socket.socket, address: Any) -> None:
        check(address)
        kept["connect"](self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        check(address)
        return kept["connect_ex"](self, address)

    def sendto(self: socket.socket, data: Any, *rest: Any) -> int:
        check(rest[-1])
        return kept["sendto"](self, data, *rest)

    def getaddrinfo(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        check((host, port))
        return look_up(host, port, *args, **kwargs)

    replaced = {"connect": connect, "connect_ex": connect_ex, "sendto": sendto}
    for name, function in replaced.items():
        setattr(socket.socket, name, function)
    socket.getaddrinfo = getaddrinfo
    try:
        yield refused
    finally:
        for name in replaced:
            delattr(socket.socket, name)  # the class inherits the real ones from _socket.socket
        for name, function in kept.items():
            if getattr(socket.socket, name) is not function:
                setattr(socket.socket, name, function)
        socket.getaddrinfo = look_up


def _is_loopback(host: Any) -> bool:
    host = host.decode() if isinstance(host, bytes) else str(host or "")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", "")


@contextmanager
def no_heavy_imports(names: tuple[str, ...] = HEAVY) -> Iterator[None]:
    """Makes ``import torch`` and the like fail within the block, also where they are loaded already."""
    hidden = {m: sys.modules[m] for m in list(sys.modules) if m.partition(".")[0] in names}
    for module in hidden:
        del sys.modules[module]
    for name in names:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)
