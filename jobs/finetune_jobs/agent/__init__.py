"""A model behind lagent's ReAct: `engine` generates, `tools` are what may be called, `react` goes round.

Shared by the evaluate and the demo stage. Nothing here imports torch before an `engine.Engine` is made.
"""
