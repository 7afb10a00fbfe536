"""L03: a Llama you wrote, with real weights."""
