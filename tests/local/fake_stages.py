"""``python fake_stages.py STAGE ...``: the real frame of `python -m finetune_jobs` around the fake program."""

import sys

from finetune_jobs import __main__ as frame
from finetune_jobs.contract import Stage

frame.PROGRAMS = dict.fromkeys(Stage, "fake_program")
sys.exit(frame.main())
