"""One file per claim, named by its chapter: what the paper says, measured beside its null."""
