"""Between the operator and the API server, to count its calls and to break them: what a network does, on purpose.

Requests go on as the operator's own service account, so that its RBAC rules hold in every test.
"""

import asyncio
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Self

import aiohttp
import yaml
from aiohttp import web
from tests.kubernetes.control_plane import CONTEXT, ControlPlane
from tests.ports import free_port

ACCOUNT = "system:serviceaccount:finetune-system:finetune-operator"
AUTO = ("Accept", "Content-Type", "User-Agent")
"""Headers that aiohttp would add."""
HOP_BY_HOP = {"host", "authorization", "transfer-encoding", "content-length", "connection", "content-encoding"}


class Proxy:
    """Use as a context; `kubeconfig` is for the operator."""

    def __init__(self, plane: ControlPlane, account: str = ACCOUNT) -> None:
        self.plane, self.account = plane, account
        self.port = free_port()
        self.kubeconfig = plane.folder / f"proxy-{self.port}.kubeconfig"
        self.calls: Counter[str] = Counter()
        """By method and resource; watches and the Lease apart."""
        self.before: Callable[[], bool] = lambda: False
        """Called before a call that changes something goes on; True ends it there."""
        self.after: Callable[[], bool] = lambda: False
        """Called when such a call has been carried out, before its answer goes back."""
        self.silent_before = 0.0
        """Watches that began before this moment are silent without being closed: dropped packets, no RST."""
        self._ready = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> Self:
        name = {"name": CONTEXT}
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [{**name, "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
                    "users": [{**name, "user": {}}],
                    "contexts": [{**name, "context": {"cluster": CONTEXT, "user": CONTEXT}}],
                    "current-context": CONTEXT,
                }
            )
        )
        self._thread.start()
        assert self._ready.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    async def _serve(self) -> None:
        context = ssl.create_default_context(cafile=str(self.plane.folder / "certificates" / "apiserver.crt"))
        connector = aiohttp.TCPConnector(ssl=context, limit=0)
        timeout = aiohttp.ClientTimeout(total=None)
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, skip_auto_headers=AUTO
        ) as self.session:
            app = web.Application(client_max_size=2**26)
            app.router.add_route("*", "/{path:.*}", self._pass_on)
            runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)  # watches stay open for ever
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", self.port).start()
            self._ready.set()
            while not self._stop.is_set():  # noqa: ASYNC110 - the event is another thread's
                await asyncio.sleep(0.05)
            await runner.cleanup()

    async def _pass_on(self, request: web.Request) -> web.StreamResponse:
        changes = request.method != "GET" and "/leases" not in request.path
        watches = request.query.get("watch") == "true"
        if not watches and "/leases" not in request.path:
            self.calls[f"{request.method} {request.path.split('/')[-1 if request.method == 'POST' else -2]}"] += 1
        if changes and self.before():
            return self._abort(request)
        headers = {k: v for k, v in request.headers.items() if k.lower() not in HOP_BY_HOP}
        headers |= {"Authorization": f"Bearer {self.plane.token}", "Impersonate-User": self.account,
                    "Impersonate-Group": "system:authenticated"}  # fmt: skip
        url = self.plane.url + request.path_qs
        try:
            body = await request.read() or None
            async with self.session.request(request.method, url, headers=headers, data=body) as answer:
                if changes:
                    whole = await answer.read()
                    self.after()
                    return web.Response(status=answer.status, headers=self._kept(answer), body=whole)
                return await self._answer(request, answer, watches=watches)
        except aiohttp.ClientConnectionError:  # one side is gone: so is this connection
            return self._abort(request)

    def _abort(self, request: web.Request) -> web.Response:
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=502)

    def _kept(self, answer: aiohttp.ClientResponse) -> dict[str, str]:
        return {k: v for k, v in answer.headers.items() if k.lower() not in HOP_BY_HOP - {"content-encoding"}}

    async def _answer(
        self, request: web.Request, answer: aiohttp.ClientResponse, *, watches: bool
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=answer.status, headers=self._kept(answer))
        await response.prepare(request)
        began = time.monotonic()
        async for chunk in answer.content.iter_any():
            while watches and began < self.silent_before:  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.1)
            await response.write(chunk)
        await response.write_eof()
        return response
