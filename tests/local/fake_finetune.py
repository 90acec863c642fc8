"""``python fake_finetune.py run FILE ...``: the real command line, starting fake stages, retrying at once."""

import sys
from pathlib import Path

from finetune_operator.cli import Settings, main

STAGES = (sys.executable, str(Path(__file__).with_name("fake_stages.py")))
sys.exit(main(settings=Settings(stage_command=STAGES, pause=lambda _: 0.01)))
