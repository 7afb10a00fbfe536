"""L01: byte-level BPE, chat text, and fitting conversations and documents into a context window."""
