"""/metrics, /healthz and /readyz."""

import asyncio
from dataclasses import dataclass, field
from time import monotonic

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from finetune_operator.cluster.cache import Cache
from finetune_operator.cluster.metrics import REGISTRY
from finetune_operator.cluster.settings import Settings
from finetune_operator.cluster.watermarks import count_jobs


@dataclass
class Health:
    """When the watches last gave a sign: an event, or a sweep that found them to have told everything."""

    silent_after: float
    cache: Cache | None = None
    """What the watches tell, while this operator leads."""
    listed: bool = False
    """Every watch of this reign has told what there is: jobs are looked at."""
    relisted: bool = False
    """A watch has begun anew with a list: what was deleted meanwhile was never told."""
    last: float = field(default_factory=monotonic)

    def begin(self, cache: Cache) -> None:
        self.cache, self.listed = cache, False
        self.alive()

    def end(self) -> None:
        """The Lease is lost: another may lead."""
        self.cache = None

    def alive(self) -> None:
        self.last = monotonic()

    @property
    def silent(self) -> bool:
        return self.cache is not None and monotonic() - self.last > self.silent_after


async def serve(settings: Settings, health: Health) -> None:
    """Until cancelled."""

    async def healthz(_request: web.Request) -> web.Response:
        if health.silent:
            seconds = monotonic() - health.last
            return web.Response(status=503, text=f"the watches have been silent for {seconds:.0f} s\n")
        return web.Response(text="ok\n" if health.cache is not None else "ok, standing by\n")

    async def readyz(_request: web.Request) -> web.Response:
        """An operator that stands by is not ready: whoever installs one waits for one that works."""
        if health.cache is not None and health.listed:
            return web.Response(text="ok\n")
        waits = "standing by" if health.cache is None else "the watches have not told yet what there is"
        return web.Response(status=503, text=f"{waits}\n")

    async def metrics(_request: web.Request) -> web.Response:
        if health.cache is not None:
            count_jobs(health.cache)
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.add_routes([web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, settings.host, settings.port).start()
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
