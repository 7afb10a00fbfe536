"""L09: QLoRA for real, equal to bitsandbytes and peft, and a measured gain."""
