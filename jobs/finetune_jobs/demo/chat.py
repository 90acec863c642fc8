"""The first page: one question, the answers side by side, and what the visitor may set."""

from collections.abc import Callable
from dataclasses import dataclass

import streamlit as st
from lagent.agents.react import CALL_PROTOCOL_EN, FORCE_STOP_PROMPT_EN
from streamlit.runtime import get_instance
from streamlit.runtime.scriptrunner import get_script_run_ctx

from finetune_jobs.agent.engine import Sampling
from finetune_jobs.agent.react import Agent
from finetune_jobs.demo.conversation import Conversation, Exchange
from finetune_jobs.demo.look import reply_html
from finetune_jobs.demo.models import Slot, shelf
from finetune_jobs.demo.settings import Settings, Side, read_settings
from finetune_jobs.errors import MachineTrouble

POLL_SECONDS = 0.25
"""Between two drawings of an answer that grows."""
LOADING_SECONDS = 1.0
"""Between two looks at the weights: loading and drawing share the interpreter's lock."""
USUAL = Sampling(max_new_tokens=128)
"""Enough for a call or a short answer; a small model on a CPU writes some ten tokens a second."""
USUAL_TURNS = 3
PROMPT_CHARACTERS = 4000
"""The longest text that a visitor may write; lagent's own call protocol has some 800."""
EXAMPLES = (
    "Please help me search the InternLM2 Technical Report.",
    "Find papers about sparse attention.",
    "Search arXiv for diffusion models.",
)


@dataclass(frozen=True)
class Options:
    """What the sidebar says."""

    tools: tuple[str, ...]
    sampling: Sampling
    max_turn: int
    call_protocol: str
    force_stop: str
    remember: bool

    def agent(self, slot: Slot) -> Agent:
        if slot.engine is None:
            raise slot.failure or MachineTrouble("ModelNotLoaded", "The model is not loaded.", "See the demo's log.")
        return Agent(slot.engine, self.tools, self.max_turn, self.call_protocol, self.force_stop, self.sampling)


@dataclass(frozen=True)
class Phase:
    """What decides how often the page is drawn, and what a visitor may do."""

    loading: tuple[Side, ...]
    running: bool

    @classmethod
    def of(cls, talk: Conversation) -> "Phase":
        return cls(tuple(side for side, slot in talk.slots.items() if not slot.ready.is_set()), talk.running)

    @property
    def pace(self) -> float | None:
        """Seconds between two drawings; None where nothing changes by itself."""
        if self.loading:
            return LOADING_SECONDS
        return POLL_SECONDS if self.running else None


def show() -> None:
    settings, talk = read_settings(), conversation()
    options = sidebar(settings, talk)
    answers = st.container()
    # Read before anything draws itself anew, which would lose a question that came with this very run.
    asked = st.chat_input("Ask both models one question", disabled=talk.running, max_chars=PROMPT_CHARACTERS)
    asked = asked or (None if talk.exchanges else examples())
    if asked:
        talk.ask(asked, options.agent, remember=options.remember)
        st.rerun()
    with answers:
        st.title(settings.title)
        for exchange in talk.exchanges[:-1]:
            draw(exchange)
        phase = Phase.of(talk)
        st.fragment(current, run_every=phase.pace)(talk, phase)


def conversation() -> Conversation:
    if "conversation" not in st.session_state:
        models = shelf()
        models.load()
        st.session_state["conversation"] = Conversation(models.slots, presence())
    talk: Conversation = st.session_state["conversation"]
    return talk


def presence() -> Callable[[], bool]:
    """Whether this visitor's browser is still connected."""
    context = get_script_run_ctx()
    return (lambda: get_instance().is_active_session(context.session_id)) if context else (lambda: True)


def sidebar(settings: Settings, talk: Conversation) -> Options:
    with st.sidebar:
        if st.button("Clear the conversation", key="clear", width="stretch", disabled=not talk.exchanges):
            talk.clear()
            st.rerun()
        tools = st.multiselect("Tools", settings.tools, default=settings.tools, key="tools")
        remember = st.toggle("Remember earlier questions", value=False, key="remember")
        sampling = sampling_settings()
        max_turn = st.slider("Most model calls for one question", 1, 10, USUAL_TURNS, key="max_turn")
        call_protocol, force_stop = prompts()
    return Options(tuple(tools), sampling, max_turn, call_protocol, force_stop, remember)


def sampling_settings() -> Sampling:
    temperature = st.slider(
        "Temperature", 0.0, 2.0, USUAL.temperature, 0.05, key="temperature", help="0: always the likeliest token"
    )
    top_p = st.slider("Top-p", 0.05, 1.0, USUAL.top_p, 0.05, key="top_p", disabled=temperature == 0)
    longest = st.slider("Most new tokens a model call", 16, 1024, USUAL.max_new_tokens, 16, key="max_new_tokens")
    return Sampling(longest, temperature, top_p)


def prompts() -> tuple[str, str]:
    with st.expander("Prompts"):
        protocol = st.text_area(
            "Call protocol", CALL_PROTOCOL_EN, height=360, max_chars=PROMPT_CHARACTERS, key="call_protocol"
        )
        stop = st.text_area(
            "Force-stop prompt", FORCE_STOP_PROMPT_EN, height=90, max_chars=PROMPT_CHARACTERS, key="force_stop"
        )
    return protocol, stop


def examples() -> str | None:
    st.caption("Ask something that needs a tool, or begin with one of these:")
    for number, (column, question) in enumerate(zip(st.columns(len(EXAMPLES)), EXAMPLES, strict=True)):
        if column.button(question, key=f"example{number}", width="stretch"):
            return question
    return None


def current(talk: Conversation, known: Phase) -> None:
    """What may still change: weights that load, the latest exchange. As a fragment it is drawn again by itself."""
    phase = Phase.of(talk)
    if phase.loading:
        left = " and ".join(side.value for side in phase.loading)
        st.info(f"Loading the weights ({left}). A question asked now is answered as soon as they are there.")
    if talk.exchanges:
        draw(talk.exchanges[-1])
    if phase.running:
        st.button("Stop", key="stop", icon=":material/stop_circle:", on_click=talk.stop)
    if phase != known:
        st.rerun()


def draw(exchange: Exchange) -> None:
    with st.chat_message("user"):
        st.text(exchange.question)
    for column, (side, reply) in zip(st.columns(len(exchange.replies)), exchange.replies.items(), strict=True):
        with column.container(border=True):
            st.html(reply_html(side, reply))
