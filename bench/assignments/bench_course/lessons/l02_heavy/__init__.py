"""Five exercises on peft, bitsandbytes, LoRA and NF4."""
