"""L08: quantisation from scratch, each part equal to bitsandbytes or gguf."""
