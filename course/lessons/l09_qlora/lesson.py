# %% [markdown]
r"""
# QLoRA, for real

*About 200 minutes for you. The notebook itself runs for about 20 minutes on two CPU cores of 2021, 6 of them training,
and for about 28 on two of 2017, 9 to 11 of them training. Two cores with AVX-512 trained faster still.*

You will take apart what QLoRA does to a model, piece by piece, and check each piece against the library that people
use in production. Then you fine-tune a real language model on 4-bit weights, ask it 359 questions that were written
by hand, and say how much it gained, with an interval.

**Why this matters on the job.** Most teams do not fine-tune on eight H100s. They have one GPU, and a model that
does not fit on it in 16 bits. QLoRA (Dettmers et al. 2023) is the usual way out: it fine-tuned a
65-billion-parameter model on one 48 GB card. It is also where silent faults live: a merge onto the wrong weights,
an optimizer that eats the memory you had saved, a layer that quietly keeps a 16-bit copy. You will meet all three
here.

Words used below. **Quantise**: store numbers with fewer bits, as codes. **Dequantise** or **decode**: turn codes back
into numbers. **Frozen**: never updated in training. **Adapter**: the small trained matrices A and B of LoRA, from the
lesson before.
"""

# %%
import math
from collections.abc import Callable

import matplotlib.pyplot as plt
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from course.base_model import load_base_model
from course.device import device_profile
from grader import check, hint, progress, reset, solution, use

plt.rcParams.update({"figure.facecolor": "white", "axes.facecolor": "white", "figure.figsize": (7, 3)})
profile = device_profile()
print(f"{profile.name}: {profile.model} in {profile.dtype}")

# %% [markdown]
r"""
## 1. Predict before you run

The base model has 134.5 million parameters: 106.2 million in the linear layers of its blocks, 28.3 million in the
embedding (which is also the head) and the norms. bitsandbytes stores linear layers in 4 bits and leaves everything
else as it was loaded: in 16 bits on a GPU, in 32 on most CPUs.

Write down two guesses before you run the next cell:

1. How many megabytes (10⁶ bytes) does the model take in 16 bits, and how many with its linear layers in 4 bits and the
   rest in 16?
2. How many bits does one 4-bit weight *really* cost, all bookkeeping included?
"""


# %%
def quantisation_bytes(model) -> int:
    """Bytes of block maxima and their scales, which get_memory_footprint() does not count."""
    states = [getattr(parameter, "quant_state", None) for parameter in model.parameters()]
    return sum(s.absmax.nbytes + s.state2.absmax.nbytes + s.offset.nbytes for s in states if s is not None)


plain, tokenizer = load_base_model()
four_bit, _ = load_base_model(quantize="nf4")
linear_weights = sum(
    math.prod(parameter.quant_state.shape) for parameter in four_bit.parameters() if hasattr(parameter, "quant_state")
)
codes = sum(parameter.nbytes for parameter in four_bit.parameters() if hasattr(parameter, "quant_state"))
maxima = quantisation_bytes(four_bit)
others = plain.num_parameters() - linear_weights
print("guess 1")
print(f"  all in 16 bits:                       {2 * plain.num_parameters() / 1e6:6.1f} MB")
print(f"  linear layers in 4 bits, rest in 16:  {(codes + maxima + 2 * others) / 1e6:6.1f} MB")
print(f"as loaded here, with what is not 4-bit in {plain.dtype}")
print(f"  plain model:                          {plain.get_memory_footprint(return_buffers=False) / 1e6:6.1f} MB")
four_bit_bytes = four_bit.get_memory_footprint(return_buffers=False) + maxima
print(f"  4-bit model:                          {four_bit_bytes / 1e6:6.1f} MB")
print(f"  of that, codes of linear layers {codes / 1e6:.1f} MB, their block maxima {maxima / 1e6:.1f} MB")
print("guess 2")
print(f"  bits for each of {linear_weights:,} linear weights: {8 * (codes + maxima) / linear_weights:.3f}")

# %% [markdown]
r"""
Two things to take along. "4-bit" is not a quarter of 16-bit: in this model it is 111 of 269 MB, 41 %, because half of
the 111 MB is the embedding (57 MB in 16 bits; in float32 it is 113 of 168 MB, two thirds). And the share falls with
size. Qwen3-8B, which you meet in section 6, has 85 % of its weights in linear layers and goes from 16.4 to 6.1 GB,
37 %; LLaMA-65B, with 99 %, from 130.6 to 34.5 GB, 26 %.

## 2. What four bits hold

Four bits make 16 codes. Which 16 numbers should they stand for? Weights of a trained layer look like draws from a
normal distribution, so evenly spaced numbers waste codes on the thin tails. **NF4** (4-bit NormalFloat) puts its 16
values at quantiles of the normal distribution, so that each code is used about equally often, with 0 among them
exactly, and -1 and 1 at the ends.

A single large weight must not stretch the scale for the whole matrix. So the matrix is read row by row as one long
line and cut into **blocks of 64** weights. Each block is divided by its largest absolute value, its **absmax**:

```
weights        0.013  -0.041   0.002  ...   0.027      64 of them, absmax 0.041
divided        0.317  -1.000   0.049  ...   0.659      now within [-1, 1]
nearest code      11       0       8  ...      14      4 bits each, two to a byte:  byte = first << 4 | second
```

One float32 absmax for 64 weights costs 32/64 = 0.5 bits a weight. **Double quantisation** stores these maxima in 8
bits, too: their mean (the *offset*) is taken away, they are cut into blocks of 256, and each such block keeps one
float32 scale. That leaves 8/64 + 32/(64 · 256) = 0.127 bits a weight, and 4.127 in all, which is what you just
measured. The 8-bit codes index a table of 256 values that lie densely around 0.

The next cell draws one real layer and the 16 values, and compares the rounding error with that of 16 evenly spaced
ones.
"""

# %%
from bitsandbytes.functional import dequantize_4bit, get_4bit_type

layer_name = f"model.layers.{plain.config.num_hidden_layers // 2}.mlp.gate_proj"
weight = plain.get_submodule(layer_name).weight.detach().float().cpu()
blocks = weight.reshape(-1, 64)
scaled = (blocks / blocks.abs().amax(dim=1, keepdim=True)).flatten()
nf4_values = get_4bit_type("nf4", device="cpu")

figure, axis = plt.subplots()
axis.hist(scaled.numpy(), bins=200, color="#9db8d9", density=True)
for value in nf4_values.tolist():
    axis.axvline(value, color="#b03a2e", linewidth=1)
axis.set(title=f"{layer_name}: weights / absmax of their block, and the 16 NF4 values", yticks=[])
plt.show()

for name, values in {"16 evenly spaced values": torch.linspace(-1, 1, 16), "NF4": nf4_values}.items():
    borders = (values[1:] + values[:-1]) / 2
    error = values[torch.bucketize(scaled, borders)] - scaled
    print(f"{name:>24}: root mean square error {error.square().mean().sqrt():.4f} of the block's maximum")

# %% [markdown]
r"""
Now the way back. You get the bytes and everything the bookkeeping says, and you return the weights. Mind that
blocks run on over the ends of rows, and that the first weight of a byte sits in its *high* four bits.

Write it on the flat line of weights first and give it its shape at the end.

Below each check you learn which case failed and, where your mistake is a known one, what it is. If you are stuck
before that, `hint(nf4_dequantise)` gives a general hint, each call a more direct one; so it is for every exercise here.
"""

# %% exercise="nf4_dequantise"

# %% [markdown]
r"""
**The library, live.** Your function on every linear layer of the real model, against bitsandbytes' own kernel. Not
"close": equal, bit for bit. (Should a layer differ, the line below says which.)
"""

# %%
nf4_dequantise = use("nf4_dequantise")


def nested_parts(state) -> dict[str, Tensor]:
    """bitsandbytes' quantisation state under the names of the exercise."""
    return {"codebook": state.state2.code, "absmax": state.state2.absmax, "offset": state.offset}


different = []
quantised_layers = [(n, p) for n, p in four_bit.named_parameters() if hasattr(p, "quant_state")]
for name, parameter in quantised_layers:
    state = parameter.quant_state
    mine = nf4_dequantise(parameter.data, tuple(state.shape), state.code, state.absmax, nested_parts(state))
    if not torch.equal(mine.to(state.dtype), dequantize_4bit(parameter.data, state)):
        different.append(name)
print(f"{len(quantised_layers) - len(different)} of {len(quantised_layers)} layers equal to the last bit", different)

# %% [markdown]
r"""
What did rounding cost the *model*? Perplexity on a few sentences is a quick look; the run at the end is the real
answer.
"""

# %%
text = (
    "A database is an organised collection of data. A query asks it a question, and the answer is a table. "
    "To count the rows that satisfy a condition, a filter is applied first and the remaining rows are counted."
)
ids = tokenizer(text, return_tensors="pt").input_ids.to(plain.device)
for name, model in {f"{profile.dtype} weights": plain, "NF4 weights": four_bit.train()}.items():
    with torch.no_grad():
        loss = model(input_ids=ids, labels=ids).loss.item()
    print(f"{name:>16}: loss {loss:.3f}, perplexity {math.exp(loss):.2f}")

# %% [markdown]
r"""
Worse, but not broken. QLoRA's bet is that the adapter, trained in full precision *on top of the rounded weights*,
makes up for it (Dettmers et al. 2023, section 4, found no loss against 16-bit fine-tuning). Remember "on top of the
rounded weights": section 8 turns on it.

## 3. The QLoRA layer

$$ y \;=\; \underbrace{x \, \mathrm{dequantise}(W_4)^\top}_{\text{frozen, 4 bits in memory}} \;+\;
\underbrace{\tfrac{\alpha}{r}\,(x A^\top) B^\top}_{\text{trained, float32}} $$

```
            x  (16 bits)
            │
     ┌──────┴───────────────┐
     │                      │
 W4 bytes ─ decode ─ x·Wᵀ   A (r × in)     ← float32, gets gradients
     │   (for a moment)     │
     │                      B (out × r)    ← float32, gets gradients, starts at 0
     │                      │  · α/r
     └────────── + ─────────┘
                 y  (16 bits)
```

Three number formats live in one layer: **4 bits** to store the frozen weight, **16 bits** to compute with it, **32
bits** for what is trained. A step of size 10⁻⁴ on a weight near 1 is lost in bfloat16, which keeps 8 significant
bits; that is why A and B stay in float32.

Your layer gets the bytes and a decode function. Keep the bytes; decode in every `forward`; let the decoded weight go.
"""

# %% exercise="qlora_linear"

# %% [markdown]
r"""
**Your two parts together on real numbers.** Your layer with *your* decoder, and peft's layer around bitsandbytes'
4-bit layer, with the same A and B, on the same input. We ask bitsandbytes in training mode, where it decodes as you
do. In evaluation mode, on a CPU with bfloat16 instructions, it switches to a faster kernel that computes in
bfloat16 whatever it is given; the last line shows how far that goes. (On such a CPU bitsandbytes may also say, when
it is first loaded, that it "Failed to load CPU gemm_4bit_forward": that is another optional kernel, and nothing here
needs it.)
"""

# %%
import copy

from peft import LoraConfig, inject_adapter_in_model

QloraLinear = use("qlora_linear")
base_layer = copy.deepcopy(four_bit.get_submodule(layer_name)).cpu().train()
base_layer.compute_dtype = torch.float32
state = base_layer.weight.quant_state
holder = nn.ModuleDict({"layer": base_layer})
holder.is_loaded_in_4bit = True
theirs = inject_adapter_in_model(LoraConfig(r=16, lora_alpha=32, target_modules=["layer"]), holder)["layer"]


def decode(packed: Tensor) -> Tensor:
    """The NF4 decoder of section 2 with this layer's bookkeeping."""
    return nf4_dequantise(packed, tuple(state.shape), state.code, state.absmax, nested_parts(state))


random = torch.Generator().manual_seed(0)
mine = QloraLinear(theirs.in_features, theirs.out_features, base_layer.weight.data, decode, rank=16, alpha=32)
with torch.no_grad():
    for own, other in ((mine.lora_a, theirs.lora_A["default"]), (mine.lora_b, theirs.lora_B["default"])):
        own.copy_(torch.randn(own.shape, generator=random) * 0.02)
        other.weight = nn.Parameter(own.detach().clone())
    x = torch.randn(4, theirs.in_features, generator=random)
    decoded_path = theirs(x)
    print(f"largest difference, mine and peft + bitsandbytes: {(mine(x) - decoded_path).abs().max():.2e}")
    print(f"bitsandbytes in evaluation mode against itself:   {(theirs.eval()(x) - decoded_path).abs().max():.2e}")

# %% [markdown]
r"""
A difference of 0 in the second line means that your processor or GPU has no such extra kernel. Where it has one,
there is a trap behind it (seen with bitsandbytes 0.50.2): the layer repacks its bytes in place at the first call in
evaluation mode, and the repacked layer passes **no gradient** to the layers below. *Evaluate a 4-bit model on such
a CPU, then train that same model, and most adapters get wrong gradients, with at most one warning.* So load afresh
before you train. The run below does.

## 4. Broken code: the 4-bit layer that keeps 16-bit weights

Somebody on your team measured memory with the layer of section 3 and found no saving at all during training. Every
output is right. The code is the obvious one:

```python
def frozen_linear(x, packed, dequantise):
    weight = dequantise(packed).to(x.dtype)
    return x @ weight.T
```

*Predict before you run:* this model has 30 blocks with 7 linear layers each. After one forward pass, before
backward, how many decoded weights are alive at the same time?
"""


# %%
def frozen_linear(x: Tensor, packed: Tensor, dequantise) -> Tensor:
    """The code above."""
    return x @ dequantise(packed).to(x.dtype).T


def waiting_for_backward(linear) -> str:
    """Send x through the down-projection of every block; which decoded weights wait for the backward pass?"""
    from torch.multiprocessing.reductions import StorageWeakRef

    made = []

    def counted(parameter):
        decoded = dequantize_4bit(parameter.data, parameter.quant_state).float()
        made.append((StorageWeakRef(decoded.untyped_storage()), decoded.nbytes))
        return decoded

    width, hidden = four_bit.config.intermediate_size, four_bit.config.hidden_size
    value = torch.randn(2, width, device=plain.device, requires_grad=True)
    for layer in four_bit.model.layers:
        value = F.pad(linear(value, layer.mlp.down_proj.weight, counted), (0, width - hidden))
    decodings, kept = len(made), [size for storage, size in made if not storage.expired()]
    value.sum().backward()
    return f"{len(kept)} of {decodings} decoded down-projections wait for backward: {sum(kept) / 1e6:.1f} MB"


print("obvious code:", waiting_for_backward(frozen_linear))

# %% [markdown]
r"""
The cell looked at one layer in seven, and all of them were alive (3.54 MB each in float32). So the answer is all
30 · 7 = 210: autograd needs each weight once more, for the gradient of x, and keeps it from forward to backward. That
is the whole model, decoded, at once. Write `recomputed_linear`, which mends `frozen_linear`: same outputs, same
gradient of x, nothing decoded left waiting.
"""

# %% exercise="recomputed_linear"

# %%
recomputed_linear = use("recomputed_linear")
print("mended:", waiting_for_backward(recomputed_linear))

# %% [markdown]
r"""
## 5. Prepare the model

Before adapters go on, a 4-bit model needs four things, which peft bundles in `prepare_model_for_kbit_training`:

1. **Freeze** everything. The adapters come later and bring their own trainable parameters.
2. **Small parameters to float32.** Norms divide by a root of a mean of squares; in 16 bits that loses digits.
3. **Gradient checkpointing**: keep only each block's input, and compute the block's inside again in backward: one more
   forward pass, paid for most of the activation memory. In full fine-tuning, where backward costs about two forward
   passes, that is a third more computing; with frozen weights, whose own gradients nobody computes, backward is nearer
   to one, and it is nearer to half. (The same trade as in section 4, one size up.) transformers calls it
   *activation checkpointing* now; `gradient_checkpointing_enable` is the older name of the same method.
4. **Let gradients in at the bottom.** In its older, *reentrant* form a checkpointed block gets gradients only if some
   input of it requires one. With a frozen embedding none does, so the embedding's output must be told to. The newer
   form (`use_reentrant=False`, today's default) does not need it, and for most models transformers 5 does this step
   when you switch checkpointing on. peft asks for it all the same, since not every model and version does. So do you.

Do it by hand, once, and you know what the call does.
"""

# %% exercise="prepare_for_kbit"

# %% [markdown]
r"""
Is step 2 always worth it? In this model the embedding is 28.3 million parameters: 57 MB in 16 bits, 113 MB in
float32, more than all 4-bit weights together. Our own training loop therefore leaves it in the dtype it was loaded in,
16 bits on a GPU (a CPU without fast 16-bit arithmetic loads float32 in the first place), and says so. A recipe is a
set of trades, not a law.

## 6. Where the memory goes

| | what | bytes |
|---|---|---|
| weights | frozen or trained | 4 (float32), 2 (16 bits), 4.127 bits (NF4) for each |
| adapters | A and B on every linear layer | 4 for each |
| gradients | of what is *trained* | 4 for each |
| optimizer | Adam's two moments, of what is *trained* | 8 for each; about 2 in 8 bits |
| layer inputs | what checkpointing keeps | layers · batch · length · hidden · 2 |
| logits | one row of the vocabulary for each token | batch · length · vocabulary · 4 |

Write the table as a function. The check does not compare with our formula: it builds small models, quantises them,
puts adapters on, takes a training step and adds up the bytes that exist.
"""

# %% exercise="memory_estimate"

# %%
memory_estimate = use("memory_estimate")

from course.memory_rule import MODEL_SHAPES


def estimate(name: str, method: str, optimizer_bits: int = 32, rows: int = 8, length: int = 128) -> dict[str, float]:
    """Your estimate for a model of `course.memory_rule`, in GB (10^9 bytes)."""
    shape = MODEL_SHAPES[name]
    needed = memory_estimate(
        linear_shapes=[(out, inn) for inn, out in shape.linear_shapes] * shape.layers,
        other_parameters=shape.embedding_parameters + (2 * shape.layers + 1) * shape.hidden,
        method=method,
        rank=16,
        optimizer_bits=optimizer_bits,
        layers=shape.layers,
        hidden_size=shape.hidden,
        vocabulary=shape.vocabulary,
        batch_size=rows,
        sequence_length=length,
    )
    return {purpose: size / 1e9 for purpose, size in needed.items()}


figure, axes = plt.subplots(1, 2, figsize=(11, 3.2))
for axis, name in zip(axes, ("SmolLM2-135M-Instruct", "Qwen/Qwen3-8B"), strict=True):
    table = pd.DataFrame({method: estimate(name, method) for method in ("full", "lora", "qlora")}).T
    table.plot.barh(stacked=True, ax=axis, legend=axis is axes[1], colormap="tab10")
    axis.set(title=f"{name}: training, 8 rows of 128 tokens", xlabel="GB")
axes[1].legend(fontsize=8)
plt.tight_layout()
plt.show()

# %% [markdown]
r"""
Read the picture twice. For 8 billion parameters, full fine-tuning wants 16 bytes for each parameter, over 130 GB,
before a single activation; LoRA removes nearly all gradients and moments and leaves 18.0 GB; QLoRA then takes the
weights, most of what is left, from 16.4 to 6.1 GB, and the sum to 7.7. For the small model with its vocabulary of
49,152, the *logits* (0.20 GB) are the largest item under QLoRA, larger than the weights (0.11 GB). Shorter rows,
smaller micro-batches, or computing logits only where an answer is trained (as our loop does) help there,
and no quantisation does.

## 7. An optimizer in 8 bits

Adam keeps two running means for each trained parameter: m of the gradient, v of its square. Dettmers et al. (2022)
store them as you now know: blocks (of 256), an absmax each, and an 8-bit code into a table of 256 values. The table
is *dynamic*: its values span seven powers of ten, because v does. Every step is

```
decode m and v to float32  →  an ordinary AdamW step  →  encode m and v again
```

The update itself uses the exact float32 moments of this step; only what waits for the next step is rounded.
"""

# %% exercise="adamw_8bit_step"

# %%
adapter_parameters = MODEL_SHAPES["SmolLM2-135M-Instruct"].adapter_parameters(rank=16)
for name in ("SmolLM2-135M-Instruct", "Qwen/Qwen3-8B"):
    for method in ("full", "qlora"):
        trained = estimate(name, method)["gradients"] / 4
        print(f"{name:>22}, {method:>5}: moments {8 * trained:7.3f} GB in float32, {2.03 * trained:7.3f} in 8 bits")

# %% [markdown]
r"""
Where only adapters are trained, the optimizer is small and 8 bits save little; in full fine-tuning of the 8-billion
model they save 49 GB of 66. Use it where it pays.

**Extension: will it fit?** The question you will be asked first in any fine-tuning project. Some bytes are there
whatever you do (weights, and what is trained); others come with each token of the micro-batch. So the useful answer
is not yes or no but *how many tokens*.
"""

# %% exercise="will_it_fit"

# %%
from course.memory_rule import ModelShape

will_it_fit = use("will_it_fit")
shapes = {name: MODEL_SHAPES[name] for name in ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-8B", "Qwen/Qwen3-14B")}
shapes["LLaMA-65B"] = ModelShape(8192, 22016, 80, 64, 64, 128, 32000, False)  # Touvron et al. 2023, table 2
plans = []
for name, shape in shapes.items():
    token_bytes = shape.layers * shape.hidden * 2 + shape.layer_bytes_per_token(2, 16) + 10 * shape.vocabulary
    for gigabytes in (8, 16, 24, 48, 80):
        tokens = will_it_fit(
            linear_parameters=shape.linear_parameters,
            other_parameters=shape.embedding_parameters,
            adapter_parameters=shape.adapter_parameters(16),
            bytes_per_token=token_bytes,
            memory_bytes=gigabytes * 10**9,
        )
        plans += [(name, method, gigabytes, count) for method, count in tokens.items()]
print("tokens that fit into a micro-batch, by GB of memory (rank 16, checkpointing, 10 % kept free)")
table = pd.DataFrame(plans, columns=["model", "method", "GB", "tokens"])
print(table.pivot(index=["model", "method"], columns="GB", values="tokens").loc[list(shapes)].to_string())

# %% [markdown]
r"""
LLaMA-65B by QLoRA on 48 GB is the published case: "a 65B parameter model on a single 48GB GPU" (Dettmers et al.
2023, abstract). By the introduction of the same paper, full fine-tuning in 16 bits needs more than 780 GB.

## 8. Which weights do you merge onto?

To serve the tuned model at full speed you fold the adapter into the weights, as in the lesson before: W + (α/r) B
A. But which W? There are three candidates, and two of them are what people do by accident:

- **W16 + dW**: the original 16-bit weights, which you can download.
- **decode(W4) + dW**: the decoded 4-bit weights.
- **NF4(decode(W4) + dW)**: the same, quantised again. That is what `merge_and_unload()` gives on a 4-bit model.

*Write down your ranking before you go on: which gives the same outputs as the model you trained?* At the end of the
lesson you will measure it on your own run.
"""

# %% exercise="merge_dequantised"

# %% [markdown]
r"""
## 9. The run

**The task.** The user gives the tables of a database in one line each, and a question. The model answers with one
SQLite query. An answer counts as right when its query, *executed*, returns the same result as the gold query: text
is never compared, since two different queries can both be right.

**The data.** 3,600 training questions from a seeded grammar: half on 15 small databases, the others on renamed
variants of them and on databases that were made up. The 359 test questions were written by hand, not by that
grammar: 239 on the 15 databases (*seen* schemas), 120 on three that training never shows (*held-out*).

**The budget** is ten minutes of training on two CPU cores, without AVX-512: some 70,000 tokens, about a quarter of the
training set. So the run has to choose (`course/sql/budget.py`), and it makes three choices:

- *1,000 rows, 85 % of them on the 15 databases.* That is where most questions will be asked; the others keep the model
  reading the schema instead of remembering it.
- *No joins, and the other kinds by weight.* A join's answer is twice as long as others, and joins are learned last.
  That is a price, and you will see it in the table of errors.
- *The 15 databases last.* The other rows all come in the first third. What a model sees at the end, while the learning
  rate falls to 0, shapes it most. SmolLM2's authors did the like in pretraining: the last stage of their 1.7B model got
  the best data ([Allal et al. 2025](https://arxiv.org/abs/2502.02737)).

**The plan**, fixed before you see a result: the base model is asked *zero-shot* (told what to do) and *few-shot*
(told, and shown four worked examples). Then it is trained on 4-bit weights and asked in the
training format. We report the share of right answers with 95 % bootstrap intervals, and the gain with a paired
interval: both models answered the same questions, so questions are resampled together.

Everything is in `course/lessons/l09_qlora/run.py`. If the kernel dies, run the cells again: training goes on from
its last checkpoint, and answers are read from `runs/l09`. Delete a file there to do that part again.
"""

# %%
from course.lessons.l09_qlora.run import answers, chosen_recipe, conversations, scored, test_questions, training_rows

plain = four_bit = model = (
    None  # loaded afresh below: a 4-bit model that has answered in evaluation mode is not to be trained
)
recipe = chosen_recipe()
questions = test_questions(recipe)
rows = training_rows()
if recipe.smoke:
    print("COURSE_SMOKE=1: A FEW STEPS AND A FEW QUESTIONS ONLY. The numbers below mean nothing; this tests the cells.")
print(f"{len(rows)} training rows, {len(questions)} test questions, results in {recipe.folder}/")
print(recipe.training)
for turn in rows[0]:
    print(f"--- {turn['role']}\n{turn['content']}")

# %% [markdown]
r"""
### Before: the base model, told and shown

*Predict:* how many percent will the base model get right, zero-shot and few-shot? (About 1 to 3 minutes each on two
cores with AVX-512, 6 and 7 on two cores of 2017 without it.)
"""

# %%
results = []
for way in ("zero-shot", "few-shot"):
    texts = answers(way, lambda: load_base_model(dtype=recipe.dtype), questions, recipe, recipe.folder / f"{way}.jsonl")
    results.append(scored(way, texts, questions))
for table in results:
    print(table["way"][0], table["outcome"].value_counts().to_dict())

# %% [markdown]
r"""
<details><summary>What we saw, after you have seen yours</summary>

0 of 359 both times. Told only, the base model mostly does not answer with a query at all (217 of 359). Shown four
examples it does: 310 of its 359 answers parse. But it carries tables and columns of the examples over (235 name
something this database does not have), and the rest give wrong results. Following a format is easy to show; reading
a schema is not.
</details>

### Train

125 steps of 8 rows on NF4 weights with double quantisation, rank 16 on all linear layers, seed fixed. The bar shows the
loss, the tokens per second and the time left. Interrupt it whenever you like: run the cell again, and it goes on from
its last checkpoint.

*Predict:* two cores of 2017 did 108 to 130 useful tokens per second, two of 2021 did 185 to 205. How many minutes is
that for 70,000?
"""

# %%
from course.training import add_adapter, train

trainable_base, tokenizer = load_base_model(dtype=recipe.dtype, quantize="nf4")
model = add_adapter(trainable_base, recipe.training)
run = train(model, tokenizer, rows, recipe.training, recipe.training_folder)
print(
    f"{len(run.losses)} steps, {run.tokens:,} tokens in {run.seconds:.0f} s = {run.tokens_per_second:.0f} tokens/s; "
    f"{run.trainable_parameters:,} trained parameters; peak memory {run.peak_memory_bytes / 1e9:.2f} GB"
)
del model, trainable_base

# %%
smooth = pd.Series(run.losses).rolling(15, min_periods=1).mean()
figure, axis = plt.subplots()
axis.plot(run.losses, color="#c8d3e0", linewidth=1, label="each step")
axis.plot(smooth, color="#1f4e79", label="mean of 15 steps")
axis.set(title="Loss on answer tokens", xlabel="optimizer step", ylabel="loss", ylim=(0, None))
axis.legend()
plt.show()

# %% [markdown]
r"""
**Your estimate against the truth.** On a GPU, `peak_memory_bytes` is what torch allocated; on a CPU, the most this
whole process ever held, Python, libraries and the models of the sections above included. The estimate also counts
16-bit weights, where a CPU run in float32 holds embedding, norms and layer inputs twice as large. So on a CPU compare
it as an upper bound only.
"""

# %%
known = profile.model if profile.model in MODEL_SHAPES else "SmolLM2-135M-Instruct"
predicted = estimate(known, "qlora", rows=recipe.training.micro_batch_size, length=80)
print({purpose: f"{1000 * size:.0f} MB" for purpose, size in predicted.items()})
print(f"estimate {sum(predicted.values()):.2f} GB, measured peak {run.peak_memory_bytes / 1e9:.2f} GB")

# %% [markdown]
r"""
### After: saved, reloaded, merged

The adapter was saved at the end of training. It is loaded back onto a *fresh* 4-bit base, and merged by the
function of section 8 into plain weights, which answer faster. First we test that the merged model is the model you
trained: the logits at every answer token of 16 test questions, and the answers to 24.

Now compare with your ranking from section 8.
"""

# %%
from course.generation import generate_batch
from course.lessons.l09_qlora.comparison import answer_logits
from course.lessons.l09_qlora.merging import adapted_model, merged_model
from course.sql import to_messages
from course.training import merge_adapter

adapted, tokenizer = adapted_model(run.adapter_folder, "float32")
merged = merged_model(adapted, use("merge_dequantised"), "float32")
probe_rows = [to_messages(question) for question in questions[:: max(1, len(questions) // 16)][:16]]
trained_logits = answer_logits(adapted, tokenizer, probe_rows)


def onto_16_bit(packed, dequantise, original, lora_a, lora_b, alpha):
    """W16 + dW: the tempting one."""
    return original + (lora_b @ lora_a) * (alpha / len(lora_a))


gaps = []
for name, candidate in {
    "decode(W4) + dW": merged,
    "W16 + dW": merged_model(adapted, onto_16_bit, "float32"),
    "NF4(decode(W4) + dW)": merge_adapter(adapted_model(run.adapter_folder, "float32")[0]),
}.items():
    logits = answer_logits(candidate, tokenizer, probe_rows)
    difference = (logits - trained_logits).abs()
    same_token = (logits.argmax(-1) == trained_logits.argmax(-1)).float().mean().item()
    gaps.append((name, difference.mean().item(), difference.max().item(), 100 * same_token))
gaps = pd.DataFrame(gaps, columns=["merge", "mean logit gap", "largest", "same next token, %"]).sort_values(
    "mean logit gap"
)
print(gaps.to_string(index=False))

# %%
asked = conversations(questions, "tuned")[:: max(1, len(questions) // 24)][:24]
from_adapter = generate_batch(adapted, tokenizer, asked, recipe.max_new_tokens)
from_merged = generate_batch(merged, tokenizer, asked, recipe.max_new_tokens)
equal_answers = sum(one == other for one, other in zip(from_adapter, from_merged, strict=True))
print(f"adapter on its 4-bit base, and merged model: {equal_answers} of {len(asked)} answers the same to the letter")
del adapted

# %% [markdown]
r"""
### The answer

The merged model now answers all questions.
"""

# %%
from course.lessons.l09_qlora.comparison import errors_by_kind, gains, shares, write_result

texts = answers("tuned", lambda: (merged, tokenizer), questions, recipe, recipe.training_folder / "answers.jsonl")
everything = pd.concat([*results, scored("tuned", texts, questions)], ignore_index=True)
accuracy = shares(everything)
gained = gains(everything, "tuned", ["zero-shot", "few-shot"])
print("right answers, percent, with 95 % bootstrap interval")
print(accuracy.round(1).to_string(index=False))
print("\ngain in percentage points, with paired 95 % interval")
print(gained.round(1).to_string(index=False))

# %%
figure, axis = plt.subplots()
colours = {"seen": "#1f4e79", "heldout": "#d98c3f"}
for offset, (split, part) in zip((-0.18, 0.18), accuracy.groupby("split", sort=False), strict=True):
    positions = [index + offset for index in range(len(part))]
    spans = [part["percent"] - part["low"], part["high"] - part["percent"]]
    axis.bar(positions, part["percent"], 0.34, color=colours[split], label=f"{split} schemas")
    axis.errorbar(positions, part["percent"], yerr=spans, fmt="none", ecolor="black", capsize=3)
axis.set_xticks(range(3), part["way"])
axis.set(title="Executed answers that are right", ylabel="percent", ylim=(0, 100))
axis.legend()
plt.show()

# %% [markdown]
r"""
An interval that excludes 0 says the gain is no accident of which questions were asked. It does not say that another
seed would give the same model, and it does not say that the gap between seen and held-out schemas is a matter of
the data or of the model. Those are questions for further runs.

### Read the errors

A single number hides what to do next. First by kind of query, then some wrong answers in full. Read at least eight,
and write one line for each: *what did the model not know?* (a phrase, a column, a join, when to stop)
"""

# %%
print(errors_by_kind(everything, "tuned").to_string())

# %%
wrong = everything[(everything["way"] == "tuned") & ~everything["correct"]]
for _, row in wrong.sample(min(8, len(wrong)), random_state=0).iterrows():
    print(f"[{row['split']}, {row['kind']}] {row['question']}")
    print(f"   gold       {row['gold']}\n   predicted  {row['predicted']}\n   {row['outcome']}: {row['message']}\n")

# %% [markdown]
r"""
### Keep the result

The record goes to your workspace, in `runs/l09/result.json`: accuracies, gains, settings, speed, memory, versions.
It is yours to show; nothing else keeps it. If you learn with an instructor, hand in the adapter too, as a folder
`adapter` beside your notebook: it is asked hidden questions, and the last line says whether it passes the checks
that come before those.
"""

# %%
record = write_result(
    recipe.folder / "result.json",
    everything,
    gained,
    {
        "smoke": recipe.smoke,
        "model": recipe.model,
        "training": recipe.training.to_dict(),
        "tokens": run.tokens,
        "training_seconds": round(run.seconds, 1),
        "tokens_per_second": round(run.tokens_per_second, 1),
        "peak_memory_bytes": run.peak_memory_bytes,
        "merge_gaps": gaps.to_dict("records"),
        "equal_answers_of_merged_model": [equal_answers, len(asked)],
        "adapter": str(run.adapter_folder),
    },
)
print(f"written: {recipe.folder / 'result.json'}")
progress()

from course.lessons.l09_qlora.hidden_set import adapter_problem

print(f"{run.adapter_folder}: {adapter_problem(run.adapter_folder, merged) or 'ready to hand in'}")

# %% [markdown]
r"""
<details><summary>How this recipe was found, after you have seen your result</summary>

All on cores of 2017, every question asked, joins only in the first row, seed 0 unless said otherwise. Times on one core
come from two runs side by side:

| rows | tokens | training | seen, % | held out, % |
|---|---|---|---|---|
| 2,688 as they come; 16 a step, learning rate 1.2e-3 | 194,000 | 25 min | 55.6 | 42.5 |
| 1,120, each kind as often, 66 % on the 15 databases; 8 a step, 2.2e-3 | 76,800 | 10.7 min | 46.4 | 40.8 |
| 1,000, each kind as often, 85 % on the 15 databases | 69,800 | 15.6 min, one core | 52.7 | 36.7 |
| the same, the 15 databases last | 69,800 | 15.3 min, one core | 49.4 | 34.2 |
| 1,000, each kind as often, 90 % | 70,500 | 8.9 min | 48.5 | 29.2 |
| 1,160, each kind as often, 85 %, no adapter in the lower 10 of 30 blocks | 81,000 | 8.3 min | 47.3 | 27.5 |
| 1,000, kinds by weight, 85 % | 69,500 | 14.6 min, one core | 52.7 | 30.0 |
| **the same, the 15 databases last** | 69,500 | 8.9 min | 54.8 | 36.7 |
| that on one core | 69,500 | 14.5 min, one core | 54.8 | 36.7 |
| that, AdamW's beta2 at 0.98 in place of 0.999 | 69,500 | 15.3 min, one core | 55.2 | 35.8 |
| that, rows drawn with seed 1 | 68,900 | 16.6 min, one core | 52.3 | 36.7 |
| that, rows drawn with seed 2 | 69,200 | 16.7 min, one core | 52.7 | 36.7 |
| that, each step's 8 rows on one database where possible | 69,500 | 14.9 min, one core | 51.5 | 34.2 |
| that, 960 rows | 66,800 | 15 min, one core | 50.6 | 33.3 |
| that, 912 rows, the longest 15 % of each kind left out | 61,600 | 8.9 min | 46.0 | 25.0 |

The step of 8 rows came from short runs on 38,000 tokens of the same grammar, without joins, at a learning rate of
2.5e-3. Their loss on half of the seen test questions, joins left out, was 0.28 with 8 rows a step and 0.32 with 16. At
1.2e-3 it was 0.30; at 5e-3 the training loss stayed higher throughout.

The weights were set after reading the third row's errors: aggregates, groups and filters are 91 of the 207 seen
questions without a join, and had got 32 % of the rows. Now they get 46 %.

Read this table like an engineer. The first row shows that more data still wins, if you have the time. Freezing the
lower blocks made a step a fifth cheaper (the backward pass ends at the lowest adapter), and was not worth what it
cost. Leaving out long rows looked free, since test questions are short; that run, which had 48 rows fewer than the
one above it as well, ended lowest of all. Then look at the scatter. "The 15 databases last" lost 3 points in one pair
of rows and won 2 in another, and one plan with three draws of its rows gave 52.3 to 54.8. So a difference of two or
three points between two rows says nothing; that most are one run each is the weakness of this table. And the choice
was made *by looking at these very test questions*, so the bold row flatters a little. An instructor's hidden
questions (drawn anew from a secret seed) had no part in it.
</details>

**Make it yours.** Change *one* thing in the recipe, write down what you expect, run, and compare with paired
intervals: rank 4 against 16, half the steps, 450 steps over all 3,600 rows with their joins, 16-bit LoRA in place of
QLoRA. A new setting gets a folder of its own, so nothing you have is overwritten. One honest before-and-after of this
kind is worth more in an interview than ten notebooks that were run once.

## 10. Interview questions

<details><summary>What is stored for one NF4 weight, and what does double quantisation save?</summary>

A 4-bit code into 16 values placed at quantiles of the normal distribution, and a share of its block's maximum.
Blocks of 64 with a float32 maximum cost 4.5 bits a weight; with 8-bit maxima in blocks of 256, 4.127. That is 0.37
bits a weight, about 3 GB for 65 billion parameters.
</details>

<details><summary>How much memory does fine-tuning a 7B model take: fully, with LoRA, with QLoRA?</summary>

Fully, with Adam in float32: 16 bytes a parameter, 112 GB before activations. LoRA: 14 GB of 16-bit weights, and
adapters of well under 1 % of the parameters at 16 bytes each. QLoRA: about 4 GB of weights and the same adapters.
Activations and logits come on top in all three: batch · length decides them, checkpointing cuts them.
</details>

<details><summary>Onto which weights do you merge a QLoRA adapter?</summary>

Onto the decoded 4-bit weights, in 16 bits or more, since those are what the adapter was trained on; then compare
logits with the trained model before shipping. Onto the original weights gives a slightly different model that
nobody evaluated; quantising again rounds part of the update away. If the serving stack needs 4 bits, quantise the
merged weights and run the whole evaluation again.
</details>

<details><summary>Which tensors of a QLoRA layer are 4-bit, which 16-bit, which 32-bit, and which get
gradients?</summary>

4-bit: the stored frozen weight, with 8-bit block maxima. 16-bit: the input, the output, and the decoded weight for
the moment of the product. 32-bit: A, B, their gradients and Adam's moments. Only A and B get a `.grad`; a gradient
also flows *through* the frozen product to the layer below.
</details>

<details><summary>Why must the embedding's output require a gradient when a frozen model is trained with
checkpointing?</summary>

Reentrant checkpointing runs a block without a graph, and runs it again with one in backward only if some input of the
block required a gradient. With everything frozen below the first adapter none does, and the adapters inside get no
gradient. Marking the embedding's output (not its weight) lets gradients in. Non-reentrant checkpointing, today's
default in transformers, does not need it; asking for it costs next to nothing.
</details>

<details><summary>What does 8-bit Adam store, why in blocks, and why are the update's own numbers still
float32?</summary>

For each moment an 8-bit code a value, into a table that is dense near zero, and one float32 maximum for each 256
values. In blocks, so that one outlier costs its 255 neighbours their precision and not the whole tensor. In float32,
because v spans many powers of ten and an update is tiny beside its parameter: the step uses exact moments, and only
what waits for the next step is rounded.
</details>

<details><summary>Why can a correct QLoRA layer still use as much memory as 16-bit LoRA?</summary>

Autograd keeps the decoded weight for the gradient of the layer's input. The layer has to save the bytes and decode
again in backward, as bitsandbytes does, or sit inside a checkpointed block.
</details>

<details><summary>When would you not use QLoRA?</summary>

When 16-bit LoRA fits: decoding costs time in every pass, both ways. When most parameters sit outside linear layers.
When the product must be served in 16 bits anyway and the last point of accuracy matters more than the hardware.
</details>

<details><summary>Your tuned model gained 60 points. What do you say next?</summary>

On how many questions, with which interval, against which baseline (few-shot, not only zero-shot), on data that is
separated from training how; which errors are left, by kind; what the gain is on inputs unlike the training data.
</details>

## What you can now claim

- You can say what each bit of a 4-bit model is for, and decode one to the last bit of the library's result.
- You can build, check and debug a QLoRA layer, including its memory.
- You can tell beforehand whether a fine-tune fits, and where the bytes go.
- You fine-tuned a real model on 4-bit weights, measured it against few-shot prompting with intervals, merged it
  without changing it, and know what it still gets wrong.

Back: *LoRA from scratch* (adapters, merging). Next: pipelines with TRL, and the ways such runs fail silently.
"""
