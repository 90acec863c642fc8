"""torchrun, bound to the life of the stage process that starts it: ``python -m finetune_jobs.train.elastic ...``."""

import runpy

from finetune_jobs.lifeline import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    runpy.run_module("torch.distributed.run", run_name="__main__", alter_sys=True)
