"""A TCP proxy in front of a real server, that can be cut off in the middle of things."""

import contextlib
import socket
import threading
import time

BEGINNINGS = (b"*", b"GET ", b"POST ", b"PUT ", b"Q\0", b"P\0", b"B\0")
"""How a request begins, in Redis' protocol, in HTTP, and in PostgreSQL's."""


class Proxy:
    """Forwards to `target` (host:port). After `requests_left` more requests from clients it goes dead until `mend`."""

    def __init__(self, target: str) -> None:
        host, port = target.rsplit(":", 1)
        self.target = (host, int(port))
        self.requests_left = float("inf")
        self.requests = 0
        self.connections = 0
        self.delay_seconds = 0.0
        self.drop_replies = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """From now on connections break, and new ones are closed at once."""
        self.requests_left = 0
        for sock in list(self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        self.requests_left = float("inf")
        self.drop_replies = False

    def close(self) -> None:
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)  # closing alone would leave the accepting thread and the port
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.requests_left <= 0:
                client.close()
                continue
            try:
                server = socket.create_connection(self.target)
            except OSError:
                client.close()
                continue
            self._open |= {client, server}
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, is_request: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_request and data.startswith(BEGINNINGS):
                    self.requests_left -= 1
                    self.requests += 1
                if is_request:
                    if self.requests_left < 0:
                        break
                    time.sleep(self.delay_seconds)
                elif self.drop_replies:
                    break
                sink.sendall(data)
        for sock in (source, sink):
            self._open.discard(sock)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
