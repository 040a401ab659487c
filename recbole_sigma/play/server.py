"""The page over HTTP on the loopback interface: three files, three answers in JSON (starlette, uvicorn)."""

from __future__ import annotations

import importlib.util
import json
import socket
from pathlib import Path
from typing import Any

from recbole_sigma.play.desk import Desk
from recbole_sigma.values import UserError

HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
LARGEST = 100_000  # bytes of a request
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:"
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def check_installed() -> None:
    """Refuse where the extra is not installed.

    Raises:
        UserError: it is not.
    """
    missing = [name for name in ("starlette", "uvicorn") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"play needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def app(desk: Desk) -> Any:
    """The ASGI application.

    It answers this machine's own names alone, and takes questions as JSON alone: a page of another site can
    neither read it nor ask it.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    def file(name: str, kind: str) -> Any:
        content = (PAGE / name).read_bytes()

        async def send(_: Request) -> Response:
            return Response(content, media_type=kind, headers=_HEADERS)

        return send

    def answer(found: Any, status: int = 200) -> Response:
        return JSONResponse(found, status, headers=_HEADERS)

    async def about(_: Request) -> Response:
        return answer(desk.about())

    async def titles(request: Request) -> Response:
        return answer(desk.titles(request.query_params.get("q", "")[:200]))

    async def lists(request: Request) -> Response:
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            return answer({"error": "send JSON"}, 415)
        body = await request.body()
        try:
            asked = json.loads(body[:LARGEST])
            if not isinstance(asked, dict):
                raise ValueError("no object")
        except (ValueError, RecursionError):
            return answer({"error": "send one JSON object"}, 400)
        try:
            return answer(await run_in_threadpool(desk.lists, asked))
        except UserError as error:
            return answer({"error": str(error)}, 400)

    return Starlette(
        routes=[
            Route("/", file("index.html", "text/html")),
            Route("/play.js", file("play.js", "text/javascript")),
            Route("/play.css", file("play.css", "text/css")),
            Route("/api/about", about),
            Route("/api/titles", titles),
            Route("/api/lists", lists, methods=["POST"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[HOST, "localhost"])],
    )


def listen(port: int = 0) -> socket.socket:
    """A socket on the loopback interface.

    Args:
        port: 0 takes a free one.

    Raises:
        UserError: another program listens there.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
    except OSError as error:
        found.close()
        raise UserError(f"--port={port}: {error.strerror}; leave it out for a free one") from error
    return found


def serve(desk: Desk, where: socket.socket) -> None:
    """Answer until Ctrl-C."""
    import uvicorn

    uvicorn.Server(uvicorn.Config(app(desk), log_level="warning", access_log=False)).run(sockets=[where])
