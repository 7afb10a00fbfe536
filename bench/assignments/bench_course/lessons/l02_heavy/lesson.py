# %% [markdown]
r"""
# Adapters and 4-bit weights
"""

# %%
import bitsandbytes as bnb
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

# %% exercise="lora_forward"

# %% exercise="merge_lora"

# %% exercise="nf4_dequantise"

# %% exercise="lora_step"

# %% exercise="train_adapter"
