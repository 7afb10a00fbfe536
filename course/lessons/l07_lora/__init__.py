"""L07: LoRA from scratch, equal to peft."""
