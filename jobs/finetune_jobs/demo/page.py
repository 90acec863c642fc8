"""The script that Streamlit runs for every visitor: two pages under one title."""

import streamlit as st

from finetune_jobs.demo import chat, training
from finetune_jobs.demo.look import STYLE
from finetune_jobs.demo.settings import read_settings

settings = read_settings()
st.set_page_config(page_title=settings.title, page_icon="🛠️", layout="wide")
st.html(f"<style>{STYLE}</style>")
pages = [
    st.Page(chat.show, title="Agent", icon=":material/forum:", url_path="agent", default=True),
    st.Page(training.show, title="Training", icon=":material/monitoring:", url_path="training"),
]
st.navigation(pages, position="top").run()
