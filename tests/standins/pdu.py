"""A power strip with a web page per socket, ``/relay/N/1`` and ``/relay/N/0``, as labgrid's ``simplerest`` switches.

``stuck``: sockets that answer well and stay as they are. Passwords, measuring and delays are not modelled.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Pdu:
    """``on``: the state of every socket that was ever switched; ``asked``: every page, in order."""

    on: dict[str, bool] = field(default_factory=dict)
    stuck: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def page(self, path: str) -> str:
        """Switch if the page says so; return the state."""
        self.asked.append(path)
        _, socket, *value = path.strip("/").split("/")
        if value and socket not in self.stuck:
            self.on[socket] = value[0] == "1"
        return "1" if self.on.get(socket, False) else "0"

    @contextmanager
    def serve(self) -> Iterator[str]:
        """Listen on 127.0.0.1; yield the address."""
        page = self.page

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = page(self.path).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            server.server_close()
