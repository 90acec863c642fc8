"""The second page: how the tuned model came about, and what it is worth."""

from typing import Any

import streamlit as st

from finetune_jobs.contract import EvaluateResult
from finetune_jobs.demo.look import transcript_html
from finetune_jobs.demo.records import (
    HISTOGRAM_FILE,
    Training,
    evaluation_of,
    fates,
    model_card_of,
    rate_rows,
    report_of,
    training_of,
    transcripts_of,
)
from finetune_jobs.demo.settings import Settings, read_settings

SHOWN_TRANSCRIPTS = 10
"""Questions on one page."""


def show() -> None:
    settings = read_settings()
    st.title(settings.title)
    show_evaluation(settings)
    show_training(training_of(settings.train))
    show_data(settings)
    card = model_card_of(settings.merge)
    if card:
        with st.expander("Model card", icon=":material/description:"):
            st.markdown(card)


def show_evaluation(settings: Settings) -> None:
    st.header("Before and after", divider="gray")
    result = evaluation_of(settings.evaluate)
    if result is None:
        st.info("This job judged no prompts: its file has no evaluation.")
        return
    st.caption(f"{result.prompts} held-out prompts, {result.turns} of them followed to the end of the turn.")
    show_rates(result)
    transcripts = transcripts_of(settings.evaluate)
    if transcripts:
        with st.expander(f"Transcripts ({len(transcripts)})", icon=":material/forum:"):
            show_transcripts(transcripts)


def show_rates(result: EvaluateResult) -> None:
    rows = rate_rows(result)
    for column, row in zip(st.columns(len(rows)), rows, strict=True):
        change = row.tuned - row.base if row.base is not None and row.tuned is not None else None
        column.metric(row.name, percent(row.tuned), delta=None if change is None else f"{change * 100:+.0f} points")
    st.table([{"": row.name, "Base": percent(row.base), "Tuned": percent(row.tuned)} for row in rows])


def percent(fraction: float | None) -> str:
    return "not measured" if fraction is None else f"{fraction * 100:.0f} %"


def show_transcripts(transcripts: list[list[dict[str, Any]]]) -> None:
    pages = -(-len(transcripts) // SHOWN_TRANSCRIPTS)
    page = st.number_input(f"Page of {pages}", 1, pages, 1, key="transcripts_page") if pages > 1 else 1
    start = (int(page) - 1) * SHOWN_TRANSCRIPTS
    for number, answers in enumerate(transcripts[start : start + SHOWN_TRANSCRIPTS], start=start + 1):
        st.text(f"{number}. {answers[0]['question']}")
        for column, answer in zip(st.columns(len(answers)), answers, strict=True):
            column.html(transcript_html(answer))


def show_training(training: Training | None) -> None:
    st.header("Training", divider="gray")
    if training is None:
        st.info("Nothing was trained in this job: it merges a ready adapter.")
        return
    result, request = training.result, training.request
    columns = st.columns(4)
    columns[0].metric("Optimizer steps", f"{result.steps:,}")
    columns[1].metric("Final loss", f"{result.final_loss:.4f}")
    columns[2].metric("Tokens a second", f"{result.tokens_per_second:,.0f}")
    columns[3].metric("Processes", result.world_size)
    st.caption(
        f"LoRA of rank {request.lora.rank}, alpha {request.lora.alpha}; base weights {request.quantization}; "
        f"peak learning rate {result.peak_learning_rate:g}; {request.epochs} epoch{'s' if request.epochs > 1 else ''}."
    )
    steps = [point.step for point in training.curve]
    loss, rate = st.columns(2)
    loss.subheader("Loss")
    loss.line_chart({"step": steps, "loss": [p.loss for p in training.curve]}, x="step", y="loss", color="#1f6f54")
    rate.subheader("Learning rate")
    rates = {"step": steps, "learning rate": [p.learning_rate for p in training.curve]}
    rate.line_chart(rates, x="step", y="learning rate", color="#8a5a12")


def show_data(settings: Settings) -> None:
    st.header("Data", divider="gray")
    report = report_of(settings.dataset)
    if report is None:
        st.info("This job read no dataset.")
        return
    names = {"rowsRead": "Rows read", "rowsKept": "Rows kept", "tokens": "Tokens", "supervisedTokens": "Tokens learned"}
    for column, (key, name) in zip(st.columns(len(names)), names.items(), strict=True):
        column.metric(name, f"{report[key]:,}")
    picture = settings.dataset / HISTOGRAM_FILE if settings.dataset else None
    if picture and picture.exists():
        st.image(str(picture), caption="Conversations by length, in tokens", width=700)
    rows = fates(report)
    if rows:
        st.dataframe(rows, hide_index=True, width="stretch")
    else:
        st.caption("Every row was taken as it is.")
