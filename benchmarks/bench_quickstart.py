"""The quickstart's job from nothing to the open demo, and once more when everything is made.

    python benchmarks/bench_quickstart.py [--workspace DIR]

Runs ``finetune run examples/smollm2-react.yaml --json`` in a new workspace (or goes on in the given one) until the page
answers, ends it by Ctrl-C, and runs it again. Prints the seconds of each stage and, last, one JSON line: `first` and
`again` in seconds to the open demo, `stages`, and `goalMet`: whether each was within its limit, 900 and 10 seconds on
two cores.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

ROOT = Path(__file__).parent.parent
JOB = ROOT / "examples" / "smollm2-react.yaml"
LIMITS = {"first": 900, "again": 10}  # seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def time_to_demo(workspace: Path) -> tuple[float, dict[str, float]]:
    """Seconds to the open demo, and by stage."""
    command = [str(Path(sys.executable).with_name("finetune")), "run", str(JOB), "--workspace", str(workspace)]
    began = last = monotonic()
    stages: dict[str, float] = {}
    process = subprocess.Popen([*command, "--json", "--port", str(free_port())], stdout=subprocess.PIPE, text=True)
    try:
        for line in process.stdout or ():
            said = json.loads(line)
            if said["state"] == "Failed":
                raise SystemExit(line)
            if said["state"] in {"Succeeded", "Reused"}:
                stages[said["stage"]], last = round(monotonic() - last, 1), monotonic()
            if said["stage"] == "demo" and said["state"] == "Succeeded":
                break
        return round(last - began, 1), stages
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.wait()


def summary(first: float, again: float, stages: dict[str, float]) -> dict[str, object]:
    """The last line."""
    met = {name: seconds <= LIMITS[name] for name, seconds in (("first", first), ("again", again))}
    return {"first": first, "again": again, "stages": stages, "limits": LIMITS, "goalMet": met}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, help="a new temporary folder when left out")
    given = parser.parse_args().workspace
    with tempfile.TemporaryDirectory() as temporary:
        workspace = given or Path(temporary)
        first, stages = time_to_demo(workspace)
        for stage, seconds in stages.items():
            print(f"{stage:10}{seconds:8.1f} s")
        again, _ = time_to_demo(workspace)
    print(json.dumps(summary(first, again, stages)))


if __name__ == "__main__":
    main()
