"""``python -m finetune_jobs.demo.server HOST PORT PARENT TOLD``: Streamlit, the weights loading beside it or first.

A process of its own that ends with its parent, so that nothing is left behind. `Settings` are in the environment; TOLD
is a file descriptor to which it writes why the weights can't be loaded, where it ends by that.
On SIGUSR1 it writes to stderr where each of its threads is.
"""

import faulthandler
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from finetune_jobs.contract import DEMO_LOAD_FIRST_VARIABLE
from finetune_jobs.demo.models import shelf
from finetune_jobs.errors import as_told
from finetune_jobs.lifeline import end_with

PAGE = Path(__file__).with_name("page.py")
FLAGS = {
    "server.headless": "true",
    "server.fileWatcherType": "none",
    "server.enableCORS": "true",
    "server.enableXsrfProtection": "true",
    "server.enableAgentApi": "false",
    "server.maxUploadSize": "1",
    "browser.gatherUsageStats": "false",
    "client.toolbarMode": "viewer",
    "client.showErrorDetails": "none",
    "theme.base": "light",
    "theme.primaryColor": "#1f6f54",
}

HIDDEN = {"STREAMLIT_RUNNER_POST_SCRIPT_GC": "false"}
"""Options without a flag. A full garbage collection after each drawing takes half a second of the interpreter's lock
once torch is loaded: with it, a model that took 15 s to answer took minutes."""


def main(host: str, port: str, parent: str, told: str) -> None:
    end_with(int(parent), signal.SIGTERM)  # elsewhere than on Linux the runner cleans up
    faulthandler.register(signal.SIGUSR1)
    if os.environ.get(DEMO_LOAD_FIRST_VARIABLE):
        load_or_end(int(told))
    else:
        threading.Thread(target=load_once_open, args=(host, port), name="load", daemon=True).start()
    flags = {**FLAGS, "server.address": host, "server.port": port}
    sys.argv = ["streamlit", "run", str(PAGE), *(f"--{name}={value}" for name, value in flags.items())]
    os.environ.update(HIDDEN)
    from streamlit.web.cli import main as streamlit

    try:
        streamlit()
    except SystemExit as end:
        # a model that is writing would abort the interpreter's ordinary end
        os._exit(end.code if isinstance(end.code, int) else int(end.code is not None))


def load_or_end(told: int) -> None:
    """Load the weights before the page opens: who asks whether it answers, a cluster's probes, asks for both."""
    shelf().load()
    failure = shelf().wait()
    if failure is not None:
        os.write(told, json.dumps(as_told(failure)).encode())
        os._exit(failure.exit_code)  # another model that loads would abort the interpreter's ordinary end


def load_once_open(host: str, port: str) -> None:
    """Load the weights without waiting for a visitor, but let the page open first: both want the same cores."""
    address = f"[{host}]" if ":" in host else host
    opener = build_opener(ProxyHandler({}))
    while True:
        try:
            opener.open(f"http://{address}:{port}/_stcore/health", timeout=1).close()
        except (URLError, OSError):
            time.sleep(0.1)
        else:
            break
    shelf().load()


if __name__ == "__main__":
    main(*sys.argv[1:])
