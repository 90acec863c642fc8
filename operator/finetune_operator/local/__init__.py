"""The embedded default: a plan as local processes. Called by the command line.

`runner` walks the plan's stages; `process` is one stage's process, `demo` the service at the end,
`workspace` what the folder on disk says. All state is on that disk: a run killed at any line is gone
on with by the next.
"""
