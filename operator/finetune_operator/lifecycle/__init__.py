"""Pure policies: from what is observed to what happens next. Called by both executors; no I/O, no clock."""
