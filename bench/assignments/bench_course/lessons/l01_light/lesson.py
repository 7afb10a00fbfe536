# %% [markdown]
r"""
# Parts of a Llama
"""

# %%
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

# %% exercise="row_softmax"

# %% exercise="rms_norm"

# %% exercise="repeat_heads"

# %% exercise="causal_mask"

# %% exercise="answer_loss"
