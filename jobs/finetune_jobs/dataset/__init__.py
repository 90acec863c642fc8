"""The dataset stage: raw conversations -> token rows that XTuner's dataloader takes as they are.

Called by ``python -m finetune_jobs dataset``. Rows are read, understood and tokenised into a spool on disk; then the
documents are packed by their lengths and written as an Arrow folder: two passes, both flat in memory. The same request
gives the same bytes, whatever the number of cores.
"""

from importlib import import_module
from threading import Thread

from finetune_jobs.contract import MODEL_FOLDER, DatasetRequest, DatasetResult, Stage
from finetune_jobs.dataset import histogram
from finetune_jobs.dataset.reading import open_source
from finetune_jobs.dataset.report import Tally, write_report
from finetune_jobs.dataset.rows import PATTERNS
from finetune_jobs.dataset.tokens import Encoder, load_vocabulary
from finetune_jobs.dataset.writing import Job, write
from finetune_jobs.room import Room
from finetune_jobs.sources import fetch
from finetune_jobs.templates import template

SOURCE_FOLDER = "source"
NEEDED_LAST = ("datasets", "matplotlib.figure", "matplotlib.backends.backend_agg")
"""Libraries of the stage's end: 2 s of imports, done while Python waits for the tokenizer."""


def run(request: DatasetRequest, room: Room) -> DatasetResult:
    """PACKED_FOLDER or MESSAGES_FOLDER, report.json and histogram.png in `room.out`.

    Raises UserMistake when the source holds no conversations that can be trained, when more than `max_dropped` of its
    rows can't be used, or when the template is unknown; MachineTrouble when what was written can't be read back.
    """
    chosen = template(request.template)
    encoder = Encoder(chosen, load_vocabulary(room.input(Stage.MODEL) / MODEL_FOLDER), request.max_length)
    fetched = fetch(request.source, room, room.out / SOURCE_FOLDER, patterns=request.files or PATTERNS[request.format])
    Thread(target=lambda: [import_module(name) for name in NEEDED_LAST], name="imports").start()
    tally = Tally(request.max_length)
    job = Job(request, room, open_source(fetched.path, request), encoder, tally)
    packs = write(job)
    result = result_of(request, tally, packs)
    write_report(room.out, tally, facts(request, encoder, fetched.description, result))
    histogram.draw(tally.histogram(), request.max_length, room.out / histogram.HISTOGRAM_FILE)
    return result


def result_of(request: DatasetRequest, tally: Tally, packs: int) -> DatasetResult:
    return DatasetResult(
        rows_read=tally.read.total(),
        rows_kept=tally.kept.total(),
        rows_dropped=dict(sorted(tally.dropped.items())),
        rows_cut=tally.cut,
        rows_repaired=dict(sorted(tally.repaired.items())),
        tokens=tally.tokens,
        supervised_tokens=tally.supervised,
        packs=packs,
        fill=tally.tokens / (packs * request.max_length),
    )


def facts(request: DatasetRequest, encoder: Encoder, source: str, result: DatasetResult) -> dict[str, object]:
    """What the report says beside the rows."""
    return {
        "source": source,
        "format": request.format,
        "template": request.template,
        "tokenizer": encoder.vocabulary.name,
        "bos": {
            "ids": encoder.vocabulary.bos,
            "writtenByTemplate": encoder.writes_bos(),
        },
        "maxLength": request.max_length,
        "output": request.output,
        "packs": result.packs,
        "fill": result.fill,
    }
