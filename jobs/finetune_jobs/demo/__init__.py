"""The agent at a URL: one question, answered by the base model and by the tuned one, side by side.

`serve.run` is the stage; it starts `server` as a process of its own, which Streamlit runs `page` in. What a session
sees is drawn by `chat` and `training`; what it does is in `conversation`, which knows nothing of Streamlit.
"""

from finetune_jobs.demo.serve import run

__all__ = ["run"]
