"""A workspace as a job leaves it behind, a tuned model in it, and an arXiv that answers on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import pytest
from tests.conftest import BaseModel
from tests.ports import free_port
from tests.stages.demo.teach import CALL, QUESTION, TEMPLATE

from finetune_jobs.agent.tools import ARXIV_URL
from finetune_jobs.contract import (
    CURVE_FILE,
    DEMO_LOAD_FIRST_VARIABLE,
    DEMO_PORT_VARIABLE,
    MERGED_FOLDER,
    REPORT_FILE,
    RESULT_FILE,
    TRANSCRIPTS_FILE,
    Contract,
    CurvePoint,
    DatasetRequest,
    DatasetResult,
    DemoRequest,
    EvaluateRequest,
    EvaluateResult,
    MergeRequest,
    MergeResult,
    PyPISource,
    Rates,
    Record,
    Source,
    Stage,
    TrainRequest,
    TrainResult,
)
from finetune_jobs.room import stage_folder

TITLE = "A model learns to call tools"
TEACH = Path(__file__).with_name("teach.py")


def threads() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


@pytest.fixture(scope="session")
def taught(smollm2_workspace: BaseModel, test_cache: Path) -> Path:
    """The base model after a few steps on one question: it calls ArxivSearch, and answers whatever that says."""
    folder = test_cache / f"demo-taught-{smollm2_workspace.digest}"
    if not (folder / "config.json").exists():
        subprocess.run(
            [sys.executable, str(TEACH), str(smollm2_workspace.folder), str(folder)], check=True, env=threads()
        )
    return folder


FEED = """<?xml version="1.0" encoding="UTF-8"?>
<feed xmlns="http://www.w3.org/2005/Atom" xmlns:arxiv="http://arxiv.org/schemas/atom"
 xmlns:opensearch="http://a9.com/-/spec/opensearch/1.1/">
<opensearch:totalResults>1</opensearch:totalResults>
<entry><id>http://127.0.0.1/abs/2403.17297</id><updated>2024-03-26T00:00:00Z</updated>
<published>2024-03-26T00:00:00Z</published><title>InternLM2 Technical Report</title>
<summary>A report &lt;b&gt;served by the test&lt;/b&gt;.</summary><author><name>Zheng Cai</name></author>
<author><name>曹茂松</name></author><link href="http://127.0.0.1/abs/2403.17297"/>
<arxiv:primary_category term="cs.CL"/><category term="cs.CL"/></entry></feed>"""


@pytest.fixture
def fake_arxiv() -> Iterator[str]:
    """An arXiv API on this machine, always with the same one paper."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(FEED.encode())

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/api/query"
    server.shutdown()


class Workspace:
    """Records and files as the stages before the demo leave them; only the models are real."""

    def __init__(self, root: Path, base: BaseModel, tuned: Path) -> None:
        self.root, self.base = root, base
        (root / Stage.MODEL).mkdir(parents=True)
        (root / Stage.MODEL / base.digest).symlink_to(stage_folder(base.workspace, Stage.MODEL, base.digest))
        merged = MergeResult(dtype="float32", shards=1, bytes=1, sha256="0" * 64, merged_tensors=210)
        self.merge = self.put(MergeRequest(needs={Stage.MODEL: base.digest}), merged)
        shutil.copytree(tuned, stage_folder(root, Stage.MERGE, self.merge) / MERGED_FOLDER)
        card = "---\nlicense: apache-2.0\n---\n# Made for a test\n"
        (stage_folder(root, Stage.MERGE, self.merge) / MERGED_FOLDER / "README.md").write_text(card)

    def put(self, request: Contract, result: Contract, files: dict[str, str] | None = None) -> str:
        folder = stage_folder(self.root, request.stage, request.digest())
        folder.mkdir(parents=True)
        for name, text in (files or {}).items():
            (folder / name).write_text(text, encoding="utf-8")
        (folder / RESULT_FILE).write_text(Record.of(request, result).to_json())
        return request.digest()

    def trained(self) -> dict[Stage, str]:
        """Dataset, training and evaluation too."""
        source = Source(pypi=PyPISource(requirement="data==1"))
        data = DatasetRequest(source=source, format="agent-flan", template=TEMPLATE, max_length=640)
        fate = {"rows": 2, "meaning": "Not JSON.", "first": [{"file": "a.jsonl", "line": 7}]}
        report = {"rowsRead": 72, "rowsKept": 70, "rowsDropped": {"broken_json": fate}, "tokens": 30123}
        told = DatasetResult(
            rows_read=72, rows_kept=70, rows_dropped={"broken_json": 2}, tokens=30123, supervised_tokens=4567, packs=50,
            fill=0.9,
        )  # fmt: skip
        train = TrainRequest(
            template=TEMPLATE, epochs=1, max_length=640, batch_size=1, gradient_accumulation=1, learning_rate="1e-3"
        )
        curve = tuple(CurvePoint(step=s, loss=2 / s, learning_rate=1e-3 / s) for s in range(1, 41))
        trained = TrainResult(
            checkpoint="x", steps=40, final_loss=0.05, peak_learning_rate=1e-3, tokens_per_second=120, gpu_seconds=0,
            world_size=1, curve=curve[:30],
        )  # fmt: skip
        judged = EvaluateResult(
            base=Rates(valid_calls=0.0), tuned=Rates(valid_calls=0.98, finished_turns=0.9), prompts=50, turns=20
        )
        said = [
            {"model": model, "question": QUESTION, "validCall": met, "steps": [{"role": "assistant", "content": text}]}
            for model, met, text in (("base", False, "I can't search."), ("tuned", True, CALL))
        ]
        return {
            Stage.DATASET: self.put(data, told, {REPORT_FILE: json.dumps({**report, "supervisedTokens": 4567})}),
            Stage.TRAIN: self.put(train, trained, {CURVE_FILE: "".join(p.to_json() + "\n" for p in curve)}),
            Stage.EVALUATE: self.put(
                EvaluateRequest(prompts="builtin", template=TEMPLATE),
                judged,
                {TRANSCRIPTS_FILE: "".join(json.dumps(line) + "\n" for line in said)},
            ),
        }

    def request(self, more: dict[Stage, str] | None = None, **fields: object) -> Path:
        needs = {Stage.MODEL: self.base.digest, Stage.MERGE: self.merge, **(more or {})}
        demo = DemoRequest(needs=needs, title=TITLE, template=TEMPLATE, **fields)
        path = self.root / f"request-{demo.digest()}.json"
        path.write_text(demo.to_json(), encoding="utf-8")
        return path


@pytest.fixture
def workspace(tmp_path: Path, smollm2_workspace: BaseModel, taught: Path) -> Workspace:
    return Workspace(tmp_path / "workspace", smollm2_workspace, taught)


class Demo:
    """The running stage program."""

    def __init__(self, request: Path, workspace: Path, port: int, arxiv: str, *, load_first: bool) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.outcome = request.with_suffix(".outcome")
        command = [sys.executable, "-m", "finetune_jobs", "demo", "--outcome", str(self.outcome)]
        first = {DEMO_LOAD_FIRST_VARIABLE: "1"} if load_first else {}
        self.process = subprocess.Popen(
            [*command, "--request", str(request), "--workspace", str(workspace)],
            env={**threads(), DEMO_PORT_VARIABLE: str(port), ARXIV_URL: arxiv, **first},
            stderr=subprocess.PIPE,
            text=True,
        )

    def is_open(self) -> bool:
        try:
            with build_opener(ProxyHandler({})).open(f"{self.url}/_stcore/health", timeout=5) as answer:
                return answer.status == 200
        except OSError:
            return False

    def wait_until_open(self) -> None:
        wait = threading.Event()
        while not self.is_open():
            assert self.process.poll() is None, self.process.stderr.read()
            wait.wait(0.1)

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]


@pytest.fixture
def start(workspace: Workspace) -> Iterator[Callable[..., Demo]]:
    """Start the demo, and end it with the test."""
    started: list[Demo] = []

    def run(
        request: Path | None = None, *, port: int | None = None, arxiv: str = "http://127.0.0.1:9/none",
        load_first: bool = False,
    ) -> Demo:  # fmt: skip
        demo = Demo(request or workspace.request(), workspace.root, port or free_port(), arxiv, load_first=load_first)
        started.append(demo)
        return demo

    yield run
    for demo in started:
        for server in demo.children() if demo.process.poll() is None else ():
            os.kill(server, signal.SIGUSR1)
        demo.process.terminate()
        _, said = demo.process.communicate(timeout=60)
        sys.stderr.write(said)  # shown of a test that failed: the demo's log, and where its threads were
