from collections.abc import Sequence
from pathlib import Path

from finetune_jobs.contract import Source
from finetune_jobs.errors import MachineTrouble
from finetune_jobs.room import Room
from finetune_jobs.sources.fetched import Fetched


def bring(source: Source, room: Room, into: Path, patterns: Sequence[str]) -> Fetched:
    raise MachineTrouble("NotYet", "This kind of source is being written.", "Use a volume until then.")
