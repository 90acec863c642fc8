"""A model's own Python code, which is never run.

Its configs name it under `auto_map`. XTuner's `sft` trusts every model's code, so transformers would look for it even
where it knows the model by itself; it was not brought.
"""

import json
import logging
from pathlib import Path

from finetune_jobs.model.assemble import rewrite

log = logging.getLogger(__name__)

NAMED_BY = "auto_map"
CONFIGS = ("config.json", "tokenizer_config.json")


def forgo(folder: Path) -> None:
    """Take the names of such code out of a model that loads without it."""
    for path in (folder / name for name in CONFIGS):
        config = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if config.pop(NAMED_BY, None) is not None:
            rewrite(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
            log.info("%s named code of the model's own: transformers' is used", path.name)
