# %% [markdown]
r"""
# Quantisation from scratch

**Your time: about 2½ hours. Running every cell on 2 CPU cores: about 2 minutes.**

You will write the number formats that fine-tuning on one GPU rests on: 8 bits with one scale a row, the blocks of a
real model file, NF4 from the normal distribution, its packed bytes, and double quantisation. Each part is compared
with the library that production uses, bitsandbytes or gguf, as soon as you check it. Then your own decoder reads the
real 98 MB model file, and you measure what each format costs the model.
"""

# %% [markdown]
r"""
## Why this matters on the job

Weights are most of what a language model occupies: 7 billion of them take 14 GB in 16 bits, and about 4 in 4 bits.
That decides which GPU you need, or whether the one you have will do. It also decides speed: to make one token for one
user, a GPU reads every weight once, so a quarter of the bytes is up to four times the tokens a second. The price is
rounding error, and quantisation goes wrong without raising anything: a scale along the wrong dimension, two swapped
half-bytes, a product that overflows, and the model still talks, only worse. "We quantised it and it got worse" is a
sentence you will hear. After this lesson you can find out why.

**Words.** To **quantise** is to store numbers as small whole numbers, their **codes**. To **dequantise**, or
**decode**, is to turn codes back into numbers. The **scale** says how much a step of one code is worth. A **block**
is a group of neighbouring weights that share a scale. Quantisation is **symmetric** when 0 has the middle code and
only a scale is stored, **asymmetric** when a minimum (or a zero point) is stored beside it. **Absmax** is the largest
absolute value of a group.
"""

# %%
import copy
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from course.base_model import load_base_model
from course.quiet_libraries import quiet_libraries
from grader import check, hint, progress, reset, solution, use

with quiet_libraries():
    from bitsandbytes.functional import (
        create_dynamic_map,
        dequantize_4bit,
        get_4bit_type,
        int8_vectorwise_quant,
        quantize_4bit,
    )

plt.rcParams.update({"figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white"})
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 90, "figure.figsize": (7, 3.2)})

# %% [markdown]
r"""
## 1. Rounding to a grid

Take the largest absolute weight of a group, lay an even grid from minus that to plus that, and move every weight to
the nearest grid point. What is stored is the number of the grid point and, once for the group, the largest weight.
The next cell does it with a grid of 7 points for 12 weights, so that you can see the steps. 8 bits give 255 points.
"""

# %%
generator = torch.Generator().manual_seed(4)
few = torch.randn(12, generator=generator) * 0.03
grid = torch.linspace(-1, 1, 7) * few.abs().max()
nearest = grid[(few.unsqueeze(1) - grid).abs().argmin(dim=1)]

figure, axis = plt.subplots(figsize=(8, 2.6))
for value in grid.tolist():
    axis.axhline(value, color="#b03a2e", linewidth=0.8)
axis.plot(few, "o", color="#1971c2", label="weight")
axis.plot(nearest, "x", color="black", label="what is read back")
axis.vlines(range(12), few, nearest, color="#1971c2", linewidth=1)
axis.set(title="12 weights on a grid of 7 points, from -absmax to absmax", xticks=[], ylabel="value")
axis.grid(False)
axis.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
r"""
The error is at most half a step, and the step is set by the largest weight alone. One large weight makes the grid
coarse for all the others. Everything clever in this lesson is about that one sentence.

**Predict before you run.** The next cell takes one layer of the real model, 576 x 1536 weights, and rounds it to 8
bits in three ways: one absmax for the whole matrix, one for each column, one for each row. Then it sets a single
one of the 884,736 weights to a hundred standard deviations and does it again. Write down: how large is the error as a
share of the weights' own size, and which of the three suffer from the large weight?
"""

# %%
model, tokenizer = load_base_model(dtype=torch.float32)
linears = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and name != "lm_head"}
LAYER = f"model.layers.{model.config.num_hidden_layers // 2}.mlp.down_proj"
layer_weight = linears[LAYER].weight.detach().cpu()
print(f"{LAYER}: {tuple(layer_weight.shape)}, {layer_weight.numel():,} weights")


def relative_error(restored: Tensor, weight: Tensor) -> float:
    """Root-mean-square error as a share of the weights' root mean square."""
    return float((restored - weight).norm() / weight.norm())


def on_even_grid(weight: Tensor, absmax: Tensor, largest_code: int) -> Tensor:
    """Rounds to a symmetric even grid and reads back; absmax broadcasts against weight."""
    step = absmax / largest_code
    return (weight / step).round() * step


spoilt = layer_weight.clone()
spoilt[100, 200] = 100 * layer_weight.std()
untouched = torch.ones_like(spoilt, dtype=torch.bool)
untouched[100, 200] = False
for title, matrix in {"as it is": layer_weight, "one weight at 100 standard deviations": spoilt}.items():
    print(f"\n{title}")
    for name, absmax in {
        "one absmax for the matrix": matrix.abs().max(),
        "one for each column": matrix.abs().amax(0, keepdim=True),
        "one for each row": matrix.abs().amax(1, keepdim=True),
    }.items():
        rounded = on_even_grid(matrix, absmax, 127)
        print(f"  {name:>26}: error {relative_error(rounded[untouched], matrix[untouched]):.2%} of the other weights")

# %% [markdown]
r"""
As the layer is, one absmax for the matrix costs 3.8 %, one for each row 1.1 %, one for each column 1.0 %. With one
huge weight it is 23 % against 1.4 and 1.2 %: now only the weights that share its row or column suffer. Rows are the
usual choice. A row of the weight belongs to one output feature, so its scale can be multiplied into the result after
the matrix product, as you will see in section 2; a column's cannot.

Write it. Mind the rounding (a conversion to `int8` does not round), the range (`int8` is not symmetric: it has -128
but no 128), and 16-bit weights. Never change what you are given: every check in this lesson looks whether you did.

The cell below the stub checks it: it tells which case failed and, where your mistake is a known one, what it is. If
you are stuck before that, `hint(absmax_int8)` gives a general hint, each call a more direct one. So it is for every
exercise here.
"""

# %% exercise="absmax_int8"

# %% [markdown]
r"""
**The library, live.** Your codes for every linear layer of the real model against bitsandbytes'. Equal means every
one of the 106 million codes. (Another order of multiplying and dividing than the docstring's is right as well, and
moves the few weights that lie almost exactly between two codes: dividing first, we counted 22,784 of 106,168,320.)
"""

# %%
absmax_int8 = use("absmax_int8")
different_codes, errors = 0, []
for module in tqdm(linears.values(), desc="layers"):
    weight = module.weight.detach().cpu()
    codes, absmax = absmax_int8(weight)
    different_codes += int((codes != int8_vectorwise_quant(weight)[0]).sum())
    errors.append(relative_error(codes * absmax.unsqueeze(1) / 127, weight))
total = sum(module.weight.numel() for module in linears.values())
print(f"{total - different_codes:,} of {total:,} codes equal bitsandbytes'")
print(f"error in 8 bits: {min(errors):.2%} to {max(errors):.2%} of a layer's weights, {np.mean(errors):.2%} on average")

# %% [markdown]
r"""
## 2. Broken code: a product in 8 bits

With weights *and* inputs in 8 bits, the matrix product itself can be done in whole numbers, which GPUs do at twice the
rate of 16-bit floats. Let $s_t$ be the absmax of token $t$ and $s_o$ that of row $o$ of the weight. Both can be
taken out of the sum, because neither changes along it:

$$ y_{to} = \sum_i x_{ti} w_{oi} \approx \frac{s_t\, s_o}{127^2} \sum_i a_{ti}\, b_{oi}
\qquad (a, b: \text{codes, whole numbers}) $$

That is why scales go by row here: a scale that changed with $i$ could not be taken out.

Somebody on your team wrote this for the layer above, and its outputs are useless. There are **four** things to mend.
Three are faults that spoil these outputs and raise nothing; one is loud and hides the two quiet ones. The fourth does
not show here: there is no answer for a row of zeros, where 0/0 is NaN, and what NaN becomes as int8 depends on the
machine. (Mending one of them asks for a change in a second line.)
"""


# %%
def broken_int8_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x times weight transposed, with both in 8 bits. Or so it says."""
    x_absmax = x.abs().max()
    weight_absmax = weight.abs().amax(dim=1)
    x_codes = (x * 127 / x_absmax).to(torch.int8)
    weight_codes = (weight * 127 / weight_absmax[:, None]).to(torch.int8)
    product = x_codes @ weight_codes.T
    return product * x_absmax * weight_absmax / 127**2


def inputs_of(names: list[str], text: str) -> dict[str, Tensor]:
    """What linear layers of the model receive for a text: (tokens, in) for each, on the CPU."""
    seen: dict[str, Tensor] = {}

    def keep(name: str):
        def hook(module: nn.Module, arguments: tuple[Tensor]) -> None:
            seen[name] = arguments[0][0].detach().float().cpu()

        return linears[name].register_forward_pre_hook(hook)

    handles = [keep(name) for name in names]
    with torch.no_grad():
        model(**tokenizer(text, return_tensors="pt").to(model.device))
    for handle in handles:
        handle.remove()
    return seen


SENTENCE = "A quantised model stores its weights as small whole numbers, and reads them back with a scale."
inputs = inputs_of([name for name in linears if name.endswith("down_proj")], SENTENCE)
x = inputs[LAYER]
right = x @ layer_weight.T
print(f"{len(x)} tokens; error of the broken product: {relative_error(broken_int8_linear(x, layer_weight), right):.0%}")
print("largest absolute input of each token:", [round(v, 1) for v in x.abs().amax(dim=1).tolist()])

# %% [markdown]
r"""
Look at the maxima as well: what the tokens bring differs by a factor of ten.

Find the faults before you mend them. What can be looked at: the dtype and the largest value of `product`, the codes of
one token beside the scaled numbers they came from, and how many different codes each token uses.
"""

# %% exercise="repair_int8_linear"

# %%
repair_int8_linear = use("repair_int8_linear")
mended = repair_int8_linear(x, layer_weight)
for name, result in {"broken": broken_int8_linear(x, layer_weight), "mended": mended}.items():
    each_token = (result - right).norm(dim=1) / right.norm(dim=1)
    print(f"{name}: error of a token's output {each_token.median():.1%} (median), {each_token.max():.1%} (worst)")


token_maxima = {name: values.abs().amax(dim=1) for name, values in inputs.items()}
uneven = max(token_maxima, key=lambda name: float(token_maxima[name].max() / token_maxima[name].median()))
uneven_x, uneven_weight = inputs[uneven], linears[uneven].weight.detach().cpu()
exact = uneven_x @ uneven_weight.T
shared = on_even_grid(uneven_x, uneven_x.abs().max(), 127)
shared = shared @ on_even_grid(uneven_weight, uneven_weight.abs().amax(1, keepdim=True), 127).T
print(f"\n{uneven}: largest absolute inputs {[round(v, 1) for v in token_maxima[uneven].tolist()]}")
for name, result in {"one scale for all tokens": shared, "mended": repair_int8_linear(uneven_x, uneven_weight)}.items():
    each_token = (result - exact).norm(dim=1) / exact.norm(dim=1)
    print(f"{name}: error of a token's output {each_token.median():.1%} (median)")

# %% [markdown]
r"""
In our run the broken product was off by 100 %, the mended one by 2.4 % (the median of the tokens). Layer 11 shows why
every token has a scale of its own: there the first token brings an input of 3,037, the others about 1. With one scale
for all, everything but the first token is rounded to zero. Such *massive activations* sit in most language models
(Sun et al. 2024, arXiv:2402.17762), and they are one reason why inputs are harder to quantise than weights.

## 3. Inside a real model file

The base model of this course came to you as one file in **GGUF**, the format of llama.cpp. It starts with a header
(names, shapes, settings, the tokenizer), and then come the tensors, byte after byte. Most of them are in **Q4_1**:
32 weights in 20 bytes.

- **scale** $d$ and **minimum** $m$ of the block, in half precision (float16), 2 bytes each;
- 32 **codes** of 4 bits, two to a byte: 16 bytes.

$$ w_i = d \cdot q_i + m, \qquad q_i \in \{0, \ldots, 15\} $$

Code 0 stands for the low end of the block and code 15 for the high end: an asymmetric format. The embedding is in
**Q8_0**, which is your absmax of section 1 in blocks of 32: a half-precision scale (the step itself, with the 127
already in it) and 32 signed bytes. Symmetric.

**Predict before you run:** how many bits does one weight cost in Q4_1, and how many in Q8_0? How large would the file
be if all 134.5 million weights were in 16 bits?
"""

# %%
from gguf import GGMLQuantizationType, GGUFReader, quants

from course.model_source import bundled_source

reader = GGUFReader(bundled_source().path)
table = pd.DataFrame(
    [(t.tensor_type.name, int(t.n_elements), int(t.n_bytes)) for t in reader.tensors],
    columns=["type", "weights", "bytes"],
)
table = table.groupby("type").agg(tensors=("type", "size"), weights=("weights", "sum"), bytes=("bytes", "sum"))
table["bits a weight"] = 8 * table["bytes"] / table["weights"]
print(table.to_string(formatters={"weights": "{:,}".format, "bytes": "{:,}".format}))
weights_in_file, bytes_in_file = int(table["weights"].sum()), int(table["bytes"].sum())
average_bits = 8 * bytes_in_file / weights_in_file
print(f"\n{weights_in_file:,} weights in {bytes_in_file / 1e6:.1f} MB: {average_bits:.2f} bits each;")
print(f"in 16 bits they would be {2 * weights_in_file / 1e6:.1f} MB")

# %% [markdown]
r"""
So this "4-bit" file has 5.74 bits a weight: a block's scale and minimum add one bit to four, and the embedding, a
fifth of all weights, is kept in 8.5. (The file's other 1.8 MB are its header, mostly the tokenizer.)

Now look at one block, by eye. The picture shows the 20 bytes that the first 32 weights of a layer occupy.
"""

# %%
tensors = {tensor.name: tensor for tensor in reader.tensors}
block = np.array(tensors["blk.15.ffn_down.weight"].data[0, :20])  # a copy: the file itself is mapped read-only

figure, axis = plt.subplots(figsize=(10, 2.2))
for position, byte in enumerate(block):
    colour = "#d9480f" if position < 2 else "#2b8a3e" if position < 4 else "#1971c2"
    axis.add_patch(plt.Rectangle((position, 0), 1, 1, facecolor=colour, alpha=0.25, edgecolor="black"))
    axis.text(position + 0.5, 0.5, f"{byte:02x}", ha="center", va="center", color="black", family="monospace")
    if position >= 4:
        label = f"{position + 12}\n{position - 4}"
        axis.text(position + 0.5, -0.1, label, ha="center", va="top", color="black", fontsize=8)
for left, width, label in ((0, 2, "scale"), (2, 2, "minimum"), (4, 16, "32 codes of four bits")):
    axis.text(left + width / 2, 1.1, label, ha="center", va="bottom", color="black")
axis.text(3.8, -0.1, "weight in the high half\nweight in the low half", ha="right", va="top", color="black", fontsize=8)
axis.set(xlim=(-0.1, 20.1), ylim=(-0.75, 1.5))
axis.axis("off")
plt.show()
scale, minimum = block[:4].copy().view(np.float16)
print(
    f"scale {scale:.5f}, minimum {minimum:.5f}: this block's weights lie on 16 points up to {minimum + 15 * scale:.5f}"
)

# %% [markdown]
r"""
Read the rows under the bytes: the low half of the first code byte belongs to weight 0, its high half to weight 16. A
library is free to choose another order, and bitsandbytes does. Nothing in the bytes tells you which; you have to know
the format.

Write the decoder for both types. `tensor.view(dtype)` reads the same bytes as numbers of another type; it wants them
side by side in memory, and a float16 has to begin at an even place. `.clone()` of a slice sees to both; `.contiguous()`
copies nothing where the slice is contiguous already, as that of a single block is.
"""

# %% exercise="gguf_dequantise"

# %% [markdown]
r"""
**The whole file, with your decoder.** Every one of the 272 tensors against gguf's own decoder. Not "close": equal.
(61 tensors are float32 already: the norms. They need no decoding. If you decode byte by byte in a Python loop, this
cell takes very long; stop it, and decode whole tensors at once.)
"""

# %%
gguf_dequantise = use("gguf_dequantise")
decoded, equal, worst, seconds = {}, 0, 0.0, {"own": 0.0, "gguf": 0.0}
for tensor in tqdm(reader.tensors, desc="tensors"):
    raw = np.array(tensor.data)
    started = time.perf_counter()
    if tensor.tensor_type == GGMLQuantizationType.F32:
        decoded[tensor.name] = torch.from_numpy(raw)
    else:
        decoded[tensor.name] = gguf_dequantise(torch.from_numpy(raw), tensor.tensor_type.name)
    seconds["own"] += time.perf_counter() - started
    started = time.perf_counter()
    expected = torch.from_numpy(quants.dequantize(raw, tensor.tensor_type))
    seconds["gguf"] += time.perf_counter() - started
    equal += torch.equal(decoded[tensor.name], expected)
    worst = max(worst, float((decoded[tensor.name] - expected).abs().max()))
print(f"{equal} of {len(reader.tensors)} tensors equal gguf's to the last bit; largest difference {worst}")
print(f"decoding took {seconds['own']:.1f} s with your decoder, {seconds['gguf']:.1f} s with gguf's")

# %% [markdown]
r"""
**And the model from it.** Two things stand between tensors and a model that talks. Names: the file says
`blk.3.attn_q`, transformers says `model.layers.3.self_attn.q_proj`. And order: llama.cpp rotates neighbouring
features of a query or key together, transformers rotates feature $i$ with feature $i + 32$ of each head of 64. So the
file holds the rows of the query and key matrices in another order, and they have to be sorted back. (Nothing fails
loudly if you forget: the model talks nonsense.)

The copy below starts with all parameters at zero, so nothing can be left over from the course's own copy.
"""

# %%
from transformers import AutoModelForCausalLM, AutoTokenizer

from course.generation import generate_batch
from course.model_conversion import ensure_converted

FILE_NAMES = {
    "embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


def from_file(decoded: dict[str, Tensor], name: str, config) -> Tensor:
    """The tensor of the file that belongs to a parameter of transformers' model."""
    ending = next(part for part in FILE_NAMES if part in name)
    block = f"blk.{name.split('.')[2]}." if ".layers." in name else ""
    tensor = decoded[f"{block}{FILE_NAMES[ending]}.weight"]
    if ending in ("q_proj", "k_proj"):
        heads = config.num_attention_heads if ending == "q_proj" else config.num_key_value_heads
        tensor = tensor.reshape(heads, -1, 2, tensor.shape[-1]).transpose(1, 2).reshape(tensor.shape)
    return tensor


folder = ensure_converted(bundled_source())  # the same weights, as the course converted them for transformers
with quiet_libraries():
    converted = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
file_tokenizer = AutoTokenizer.from_pretrained(folder)
own_model = copy.deepcopy(converted)
same = 0
with torch.no_grad():
    for parameter in own_model.parameters():
        parameter.zero_()
    parameters = dict(own_model.named_parameters())
    for name, parameter in parameters.items():
        parameter.copy_(from_file(decoded, name, converted.config))
        same += torch.equal(parameter.bfloat16(), converted.get_parameter(name).bfloat16())
print(f"{same} of {len(parameters)} parameters equal the course's copy, which is rounded to bfloat16")
ids = file_tokenizer(SENTENCE, return_tensors="pt").input_ids
with torch.no_grad():
    gap = (own_model(ids).logits - converted(ids).logits).abs().max().item()
print(f"largest difference of the logits, float32 weights against bfloat16 weights: {gap:.2f}")
question = [{"role": "user", "content": "What is the capital of France?"}]
print("your file, your decoder:", generate_batch(own_model, file_tokenizer, [question], 32, progress=False)[0])
del own_model, converted, decoded, expected

# %% [markdown]
r"""
All 272 parameters agree once they are rounded to bfloat16, as the course's copy is. That rounding alone moves a logit
by up to 0.16. And the model that came out of your decoder talks.

One more thing to keep in mind. The "unquantised" weights that this course calls its base model are themselves decoded
from a 4-bit file. Whatever you measure below is error *on top of that*.

## 4. Sixteen numbers

4 bits are 16 codes. Q4_1 spreads them evenly. But weights are not spread evenly: most are small. **Predict before
you run:** after each block of 64 weights is divided by its absmax, which share of them lies between -0.5 and 0.5?
"""

# %%
scaled = (layer_weight.reshape(-1, 64) / layer_weight.reshape(-1, 64).abs().amax(1, keepdim=True)).flatten()
print(f"{(scaled.abs() < 0.5).float().mean():.0%} of the weights lie between -0.5 and 0.5")
print(f"a block's absmax is {1 / scaled.std():.1f} standard deviations of its weights, or so")
even_values = torch.linspace(-1, 1, 15)  # 15: 0 is among them, and both sides reach equally far
codes = (scaled.unsqueeze(1) - even_values).abs().argmin(dim=1)
used = torch.bincount(codes) / len(codes)
figure, axis = plt.subplots()
axis.hist(scaled.numpy(), bins=200, density=True, color="#9db8d9")
axis.set(title=f"{LAYER}: weight / absmax of its block of 64", yticks=[], xlabel="scaled weight")
plt.show()
print("15 evenly spaced codes, in per cent of all weights:", [round(100 * share, 1) for share in used.tolist()])

# %% [markdown]
r"""
83 % lie in the middle half of the range. The three middle codes of 15 serve 48 % of the weights, the three at each end
4 %. (The two needles at -1 and 1 are the blocks' own maxima: one weight of each 64 lands there exactly.)

A trained layer's weights look like draws from a normal distribution. **NF4**, 4-bit NormalFloat
(Dettmers et al. 2023), therefore puts its values at the distribution's **quantiles**. The quantile of probability
$p$ is the number below which a share $p$ of all draws falls: 0 for $p = 0.5$, 1.645 for $p = 0.95$. Evenly spaced
probabilities give values that are dense in the middle and rare at the ends, so that each code is used about equally
often.

Three details make the actual table:

- **The ends.** The quantile of $p = 1$ is infinite, so the last probability stops short, at 0.9677083. It is the
  mean of $1 - \frac{1}{30}$ and $1 - \frac{1}{32}$: half a share off the end with 15 shares, and with 16.
- **Zero.** It must be among the values exactly, so that 0 stays 0 (padding, pruned weights). So the two sides are made
  separately, and 0 is put between them.
- **Sixteen.** 0 takes one code, which leaves 15: eight for one side, seven for the other. NF4 gives the eighth to the
  positive side.

The picture shows the positive side: even steps of probability, bent by the curve into uneven values.
"""

# %%
from scipy import stats

points = np.linspace(0.9677083, 0.5, 9)
curve = np.linspace(0, 2.2, 200)
figure, axis = plt.subplots(figsize=(7, 3.4))
axis.plot(curve, stats.norm.cdf(curve), color="black")
axis.hlines(points, 0, stats.norm.ppf(points), color="#9aa5b1", linewidth=0.8)
axis.vlines(stats.norm.ppf(points), 0.48, points, color="#b03a2e", linewidth=1.2)
axis.set(xlim=(0, 2.2), ylim=(0.48, 1), xlabel="value, in standard deviations", ylabel="probability")
axis.set_title("Nine evenly spaced probabilities and their quantiles; 0.5 gives 0")
axis.grid(False)
plt.show()

# %% exercise="nf4_codebook"

# %% [markdown]
r"""
**The library, live**, and the codebook against the real weights.
"""

# %%
nf4_codebook = use("nf4_codebook")
own_values, library_values = nf4_codebook(), get_4bit_type("nf4", device="cpu")
print(f"largest difference from bitsandbytes' table: {(own_values - library_values).abs().max():.1e}")

figure, axes = plt.subplots(1, 2, figsize=(11, 3.2))
axes[0].hist(scaled.numpy(), bins=200, density=True, color="#9db8d9")
for value in own_values.tolist():
    axes[0].axvline(value, color="#b03a2e", linewidth=1)
axes[0].set(title="the 16 values on the weights' histogram", yticks=[], xlabel="scaled weight")
axes[0].set_xticks([-1, -0.5, 0, 0.5, 1])
shares = {}
for name, values in {"evenly spaced": even_values, "NF4": own_values}.items():
    nearest_code = torch.bucketize(scaled, (values[1:] + values[:-1]) / 2)
    shares[name] = torch.bincount(nearest_code, minlength=16) / len(scaled)
    error = relative_error(values[nearest_code], scaled)
    bits = -(shares[name] * shares[name].clamp_min(1e-12).log2()).sum()
    print(f"{name:>14}: error {error:.1%}, {bits:.2f} bits of information in a 4-bit code")
axes[1].bar(np.arange(16) - 0.2, 100 * shares["evenly spaced"], 0.4, label="evenly spaced", color="#9aa5b1")
axes[1].bar(np.arange(16) + 0.2, 100 * shares["NF4"], 0.4, label="NF4", color="#b03a2e")
axes[1].set(title="how often each code is used", xlabel="code", ylabel="% of weights")
axes[1].legend()
plt.show()

# %% [markdown]
r"""
NF4's error is 9.3 % of the scaled weights, that of even values 11.2 %, with the same 4 bits to store. Not all of that
is their places: NF4 has a sixteenth value. (16 even values, none of them 0, measure 10.4 %.) The codes are used more
evenly, but not quite evenly: a block's absmax is about 2.7 standard deviations of its weights, while NF4's ends stand
for 1.85, so the outer codes serve fewer. Yoshida (2023, arXiv:2306.06965) works out better tables for each block size;
the gain is small, and NF4 stayed.

## 5. Blocks and bytes

Section 1 ended with one large weight spoiling its whole row. A smaller group spoils less. **Blocks** cut the matrix,
read row after row as one long line, into pieces of 64 weights, each with an absmax of its own. That costs bits: one
float32 for 64 weights is 0.5 bits a weight. **Two codes share a byte.** bitsandbytes puts the first weight of a pair
into the high four bits:

```
weights           0.013  -0.041   0.002   0.027  ...      64 of them, absmax 0.041
divided           0.317  -1.000   0.049   0.659  ...      now within [-1, 1]
nearest NF4 code     11       0       8      14  ...
bytes              11 * 16 + 0    8 * 16 + 14    ...      b0 8e ...
```

(0.049 lies between code 7, the value 0, and code 8, the value 0.080; the border is halfway, at 0.040.)

Write the way there and the way back.
"""

# %% exercise="nf4_quantise"

# %% [markdown]
r"""
**The library, live.** Your bytes against bitsandbytes' for the seven linear layers of one block of the model. (A
weight that lies on a border between two codes, to the last bit of a float32, may go either way.)
"""

# %%
nf4_quantise = use("nf4_quantise")
nf4 = library_values
middle = LAYER.rsplit(".mlp", 1)[0]
for name in (name for name in linears if name.startswith(f"{middle}.")):
    weight = linears[name].weight.detach().cpu()
    packed, absmax, restored = nf4_quantise(weight, nf4)
    library_packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    equal_bytes = int((packed == library_packed.flatten()).sum())
    print(
        f"{name.removeprefix(middle + '.'):>18}: {equal_bytes:,} of {len(packed):,} bytes equal, "
        f"absmax equal: {torch.equal(absmax, state.absmax)}, error {relative_error(restored, weight):.2%}"
    )

# %% [markdown]
r"""
**Predict before you run: error by block size.** The next cell quantises the layer with blocks of 16 up to 16,384
weights, with NF4 and with 15 evenly spaced values, and then once more with one weight in a thousand made twenty
times larger. How does the error grow from blocks of 64 to blocks of 4,096? Where does the choice of the 16 values
matter more than the block size?
"""

# %%
sizes = [16, 32, 64, 128, 256, 1024, 4096, 16384]
generator = torch.Generator().manual_seed(0)
large = torch.randperm(layer_weight.numel(), generator=generator)[: layer_weight.numel() // 1000]
with_outliers = layer_weight.clone()
with_outliers.view(-1)[large] *= 20
ordinary = torch.ones(layer_weight.numel(), dtype=torch.bool).index_fill_(0, large, False).reshape(layer_weight.shape)
rows = []
for size in tqdm(sizes, desc="block sizes"):
    row = {"block": size, "bits": 4 + 32 / size}
    for name, values in {"NF4": nf4, "evenly spaced": even_values}.items():
        row[name] = relative_error(nf4_quantise(layer_weight, values, size)[2], layer_weight)
        restored = nf4_quantise(with_outliers, values, size)[2]
        row[f"{name}, outliers"] = relative_error(restored[ordinary], with_outliers[ordinary])
    rows.append(row)
by_size = pd.DataFrame(rows).set_index("block")
print(by_size.to_string(formatters={name: "{:.1%}".format for name in by_size.columns if name != "bits"}))

figure, axis = plt.subplots(figsize=(7, 3.6))
for name, colour in (("NF4", "#b03a2e"), ("evenly spaced", "#5f6b76")):
    axis.plot(sizes, 100 * by_size[name], "o-", color=colour, label=name)
    axis.plot(sizes, 100 * by_size[f"{name}, outliers"], "o--", color=colour, label=f"{name}, 1 in 1,000 is 20 x")
axis.set_xscale("log", base=2)
axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
axis.set_yscale("log")
axis.set_yticks([10, 20, 40, 80], ["10", "20", "40", "80"])
axis.set(xlabel="weights in a block", ylabel="error of the ordinary weights, %", title="Error by block size")
axis.legend(fontsize=8)
plt.show()

# %% [markdown]
r"""
From blocks of 64 to blocks of 4,096, NF4's error goes from 9.5 to 14.6 % as the layer is, and from 14 to 66 % with
outliers. Blocks are what contains an outlier: it costs its 63 neighbours their precision and nobody else. And the
choice of values is worth bits: NF4 in blocks of 64 (4.5 bits, 9.5 %) beats even values in blocks of 32 (5 bits,
10.5 %). (The 9.3 % of section 4 was of scaled weights, where every block counts alike; here each has its size back.)

## 6. Quantising the quantisation

Blocks of 64 cost half a bit a weight for their maxima, an eighth of the model again. **Double quantisation** stores
the maxima in 8 bits, by the same recipe: blocks (of 256 maxima), a scale for each, and the nearest value of a table,
this time of 256 values. Two things differ.

- Maxima are all positive, so their **mean** is taken away first. What is left has both signs and is small.
- The table is bitsandbytes' **dynamic** one: its values span more than six powers of ten, so that small numbers keep
  their relative precision. Half of its codes lie between -0.1 and 0.1.

The picture shows the maxima of one layer, before and after their mean is taken away, and the table.
"""

# %%
dynamic = create_dynamic_map()
_, maxima, _ = nf4_quantise(layer_weight, nf4)
figure, axes = plt.subplots(1, 3, figsize=(11, 2.6))
axes[0].hist(maxima.numpy(), bins=80, color="#9db8d9")
axes[0].set(title=f"{len(maxima):,} block maxima", yticks=[], xlim=(0, None))
axes[1].hist((maxima - maxima.mean()).numpy(), bins=80, color="#9db8d9")
axes[1].set(title="the mean taken away", yticks=[])
axes[2].plot(dynamic.numpy(), color="#b03a2e")
axes[2].set(title="the dynamic table", xlabel="code", ylabel="value")
plt.tight_layout()
plt.show()
middle_codes = int((dynamic.abs() < 0.1).sum())
print(f"{middle_codes} of 256 table values lie between -0.1 and 0.1")
print(f"maxima {maxima.min():.4f} to {maxima.max():.4f}, mean {maxima.mean():.4f}")

# %% exercise="double_quantise"

# %% [markdown]
r"""
**The library, live.** Your codes against the state that bitsandbytes keeps for the same weight. Here you meet a
limit of "equal to the library": its CPU encoder finds the nearest table value by a shortcut, so a few codes
may be off by one. Which of the two answers lies nearer to the true maximum, is measured, too.
"""

# %%
double_quantise = use("double_quantise")
codes, scales, offset, restored_maxima = double_quantise(maxima, dynamic)
_, state = quantize_4bit(layer_weight, blocksize=64, quant_type="nf4", compress_statistics=True)
steps = codes.int() - state.absmax.int()
library_maxima = state.state2.code[state.absmax.long()] * state.state2.absmax.repeat_interleave(256)[: len(codes)]
library_maxima = library_maxima + state.offset
print(f"{int((steps == 0).sum()):,} of {len(codes):,} codes equal; the others differ by {sorted(set(steps.tolist()))}")
print(
    f"scales equal: {torch.allclose(scales, state.state2.absmax)}, mean equal: {torch.allclose(offset, state.offset)}"
)
print(f"error of the maxima: yours {relative_error(restored_maxima, maxima):.3%}, ", end="")
print(f"bitsandbytes' {relative_error(library_maxima, maxima):.3%}")

plain_restored = nf4_quantise(layer_weight, nf4)[2]
double_restored = plain_restored * (restored_maxima / maxima).repeat_interleave(64).reshape(layer_weight.shape)
for name, restored, bits in (
    ("float32 maxima", plain_restored, 4 + 32 / 64),
    ("double quantised", double_restored, 4 + 8 / 64 + 32 / (64 * 256)),
):
    print(f"{name:>17}: {bits:.3f} bits a weight, error {relative_error(restored, layer_weight):.3%}")

# %% [markdown]
r"""
27 of the 13,824 codes differ by one, and both sets of maxima are equally close to the true ones (0.397 %). Double
quantisation takes the error of the weights from 9.495 to 9.504 % and saves 0.373 of 4.5 bits, a twelfth: about as near
to free as anything in this lesson.

## 7. A real run with a number to keep

Error of the weights is not what a user sees. What does each format cost the *model*? The next cells put rounded weights
into all linear layers and ask the model for the next token at every position of some conversations. Three numbers are
compared with those of the model as it was:

- **loss**: mean cross-entropy for each token, in nats;
- **KL**: how far the predicted distribution has moved from the original one (Kullback-Leibler divergence, in nats a
  token). It sees damage that the loss hides, since some tokens get better by chance;
- **same token**: the share of positions at which the most likely token is still the same.

bitsandbytes does the NF4 rounding here, which you have shown to equal yours.

**Predict the order** of the seven formats, from harmless to harmful, before you run the second cell: 8 bits with one
absmax a row, and with one a matrix; NF4 in blocks of 64, the same double quantised, and in blocks of 1,024; even values
in 4 bits in blocks of 64, and with one absmax a row. That cell takes about 45 seconds on 2 cores.
"""

# %%
from course.sql import load_examples, to_messages

smoke = os.environ.get("COURSE_SMOKE") == "1"
examples = load_examples("seen", ("airline", "hotel", "library"))[: 4 if smoke else 16]
texts = [tokenizer.apply_chat_template(to_messages(example), tokenize=False) for example in examples]
tokenizer.padding_side = "right"
batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)
predicted = batch.attention_mask[:, 1:].bool()  # positions that have a next token to predict
originals = {name: module.weight.detach().clone() for name, module in linears.items()}


def next_token_log_probabilities() -> Tensor:
    """(positions, vocabulary), one row for each predicted token."""
    rows = []
    with torch.no_grad():
        for start in range(0, len(texts), 4):
            part = {name: value[start : start + 4] for name, value in batch.items()}
            logits = model(**part).logits[:, :-1][predicted[start : start + 4]]
            rows.append(logits.float().log_softmax(-1))
    return torch.cat(rows)


targets = batch.input_ids[:, 1:][predicted]
reference = next_token_log_probabilities()
print(f"{len(targets):,} tokens; loss of the model as it is: {F.nll_loss(reference, targets):.4f}")

# %%
from course.lessons.l08_quantisation.bitsandbytes_nf4 import library_quantise


def in_nf4_twice(weight: Tensor) -> Tensor:
    """NF4 in blocks of 64 with double quantisation, by bitsandbytes, read back."""
    return dequantize_4bit(*quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=True))


def even_in_blocks(weight: Tensor, block_size: int) -> Tensor:
    """4 bits on an even symmetric grid of 15 points, in blocks."""
    blocks = weight.reshape(-1, block_size)
    return on_even_grid(blocks, blocks.abs().amax(1, keepdim=True), 7).reshape(weight.shape)


def per_row(weight: Tensor, largest_code: int) -> Tensor:
    """An even symmetric grid for each row."""
    return on_even_grid(weight, weight.abs().amax(1, keepdim=True), largest_code)


mean_width = np.mean([module.in_features for module in linears.values()])
FORMATS: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "8 bits, absmax a row": (8 + 32 / mean_width, lambda w: per_row(w, 127)),
    "8 bits, absmax a matrix": (8.0, lambda w: on_even_grid(w, w.abs().max(), 127)),
    "NF4, blocks of 64": (4.5, lambda w: library_quantise(w, 64)[2]),
    "NF4, double quantised": (4 + 8 / 64 + 32 / (64 * 256), in_nf4_twice),
    "NF4, blocks of 1,024": (4 + 32 / 1024, lambda w: library_quantise(w, 1024)[2]),
    "even 4 bits, blocks of 64": (4.5, lambda w: even_in_blocks(w, 64)),
    "even 4 bits, absmax a row": (4 + 32 / mean_width, lambda w: per_row(w, 7)),
}
if smoke:
    FORMATS = {name: FORMATS[name] for name in ("8 bits, absmax a row", "NF4, double quantised")}
    print("COURSE_SMOKE=1: TWO FORMATS AND FOUR TEXTS ONLY. The numbers below mean nothing; this tests the cells.")
results = []
for name, (bits, rounded) in (bar := tqdm(FORMATS.items(), desc="formats")):
    errors = []
    with torch.no_grad():
        for layer, module in linears.items():
            module.weight.copy_(rounded(originals[layer]))
            errors.append(relative_error(module.weight, originals[layer]))
    found = next_token_log_probabilities()
    divergence = (reference.exp() * (reference - found)).sum(-1).mean()
    same_token = (found.argmax(-1) == reference.argmax(-1)).float().mean()
    size = (bits * total / 8 + 2 * (model.num_parameters() - total)) / 1e6
    loss = F.nll_loss(found, targets)
    results.append((name, bits, size, np.mean(errors), loss.item(), divergence.item(), same_token.item()))
with torch.no_grad():
    for layer, module in linears.items():
        module.weight.copy_(originals[layer])
results = pd.DataFrame(results, columns=["format", "bits", "MB", "weight error", "loss", "KL", "same token"])
results = results.set_index("format").sort_values("KL")
formatters = {"bits": "{:.2f}", "MB": "{:.0f}", "weight error": "{:.1%}", "loss": "{:.3f}", "KL": "{:.4f}"}
formatters = {name: form.format for name, form in (formatters | {"same token": "{:.1%}"}).items()}
print(results.to_string(formatters=formatters))

figure, axis = plt.subplots(figsize=(7, 3))
labels = [f"{name}  ({bits:.2f} bits)" for name, bits in results["bits"].items()]
axis.barh(labels, results["KL"], color="#b03a2e")
axis.invert_yaxis()
axis.set(
    xscale="log",
    xlim=(1e-3, None),
    xlabel="KL from the original model, nats a token",
    title="What each format costs the model",
)
plt.show()

# %%
from pathlib import Path

from course.run_record import write_record

record_names = {"MB": "megabytes", "weight error": "weight_error", "KL": "kl_nats", "same token": "same_token"}
record = {
    "smoke": smoke,
    "tokens": len(targets),
    "loss_unquantised": F.nll_loss(reference, targets).item(),
    "formats": results.reset_index().rename(columns=record_names).to_dict("records"),
}
record_file = Path("runs") / f"l08{'-smoke' if smoke else ''}" / "result.json"
write_record(record_file, "l08_quantisation", record)
print(f"written: {record_file}")

# %% [markdown]
r"""
The table is kept in `runs/l08/result.json`. Mark the row of NF4 with double quantisation: it is the format of L09.
What our table said:

- Eight bits with an absmax for each row are nearly free: KL 0.004. (The loss even fell by 0.01. That is chance, and why
  KL is the better witness.) The same eight bits with one absmax for the matrix cost 27 times as much, 0.108. Layout
  counts for more than it seems.
- In four bits NF4 in blocks of 64 costs half of what even values cost (0.41 against 0.82). Double quantisation costs
  nothing that 958 tokens could show (0.409 against 0.411). Blocks of 1,024 save 0.1 bits more and cost a third more.
- KL 0.4, with one top token in four changed, is a lot. A model of 135 million has little to spare, and its weights had
  been through a 4-bit file before. Models of 7 billion and more lose far less: Dettmers et al. (2023, section 4) found
  none after fine-tuning on top of NF4. That is what L09 does.

## 8. Extension: outliers

Two levers make 4 bits better, and both cost bits: smaller blocks, and keeping the few largest weights apart in 16 bits,
where they stretch no block. Which is the better bargain? It depends on whether the matrix *has* outliers. Write the
bookkeeping for both, and let the real layers answer.
"""

# %% exercise="layout_costs"

# %%
layout_costs = use("layout_costs")


def round_trip(matrix: Tensor, block_size: int) -> Tensor:
    """NF4 there and back, with your own quantiser."""
    return nf4_quantise(matrix, nf4, block_size)[2]


def widest_tails() -> str:
    """The linear layer whose largest weight is largest beside its standard deviation."""
    return max(
        linears, key=lambda name: float(linears[name].weight.detach().abs().max() / linears[name].weight.detach().std())
    )


figure, axes = plt.subplots(1, 2, figsize=(11, 3.4))
for axis, name in zip(axes, (LAYER, widest_tails()), strict=True):
    weight = linears[name].weight.detach().cpu()
    thousandth = weight.numel() // 1000
    lines = {
        "smaller blocks": [(size, 0) for size in (256, 128, 64, 32)],
        "blocks of 256, outliers apart": [(256, kept * thousandth) for kept in (0, 1, 3, 6, 10)],
        "blocks of 64, outliers apart": [(64, kept * thousandth) for kept in (0, 1, 3, 6, 10)],
    }
    for label, layouts in lines.items():
        costs = layout_costs(weight, layouts, round_trip)
        axis.plot([bits for _, bits in costs], [100 * error for error, _ in costs], "o-", label=label)
        print(f"{name}, {label}: " + ", ".join(f"{bits:.2f} bits {error:.2%}" for error, bits in costs))
    largest = weight.abs().max() / weight.std()
    axis.set(
        xlabel="bits a weight", ylabel="error, %", title=f"{name}\nlargest weight: {largest:.0f} standard deviations"
    )
axes[0].legend(fontsize=8)
plt.tight_layout()
plt.show()

# %% [markdown]
r"""
In both layers the lines with outliers apart lie below the line of smaller blocks: with blocks of 256 and 0.6 % of the
weights apart you pay 4.41 bits for an error of 9.4 and 9.2 %; blocks of 64 cost 4.5 bits for 9.5 and 9.4 %. The first
tenth of a per cent, 0.05 bits, buys the most. So why does hardly anybody keep single weights apart? Because they have
to be fetched one by one when the matrix is multiplied. Smaller blocks cost bits, scattered outliers cost time.

## Interview questions

<details><summary>What is absmax quantisation, and what is its weakness?</summary>

Divide a group of numbers by its largest absolute value, multiply by the largest code (127 for int8), round, and store
the codes and that one value. The step is set by the largest number alone, so a single outlier makes all others of its
group coarse. Hence small groups: rows, blocks.
</details>

<details><summary>Why one scale per row and not one per matrix? Why 127 and not 128?</summary>

One large weight then spoils its own row and no other, for 32 bits a row; and the scale of a row can be multiplied
in after the matrix product. int8 goes from -128 to 127. Scaled to 128, the largest positive weight would wrap round
to -128 or have to be clamped. With 127 the range is symmetric, 0 is exact and no weight is clipped; the code -128
is left unused.
</details>

<details><summary>In an int8 matrix product, what is the accumulator's type, and why can't scales vary along the summed
dimension?</summary>

int32: a product of two codes is up to 16,129, so int8 overflows at once and int16 with the third large product. A scale
comes out of the sum only if it is the same for all its terms: so one per token for the inputs and one per output
feature for the weight. A scale for each input feature would have to be applied before the sum, which gives up whole
numbers.
</details>

<details><summary>Symmetric or asymmetric?</summary>

Symmetric stores a scale, asymmetric a scale and a minimum (or zero point). Weights are centred near 0, so symmetric
is usual for them and cheaper; values that are all on one side, as after a ReLU, waste half the codes of a symmetric
format. Q4_1 pays 16 bits a block for a minimum because with 16 codes in a block of 32 every point counts.
</details>

<details><summary>What is in a GGUF Q4_1 block, and why is a "4-bit" file 5 bits a weight?</summary>

32 weights in 20 bytes: a float16 scale, a float16 minimum and 16 bytes of codes. 160 bits for 32 weights are 5 bits
each: the bookkeeping is a quarter on top of the codes. The embedding is often kept in 8 bits, which adds more.
</details>

<details><summary>Why are NF4's values quantiles of a normal distribution, and why is it not symmetric?</summary>

Trained weights, divided by their block's absmax, look normal. Values at evenly spaced probabilities are used about
equally often, so no code is wasted on empty tails. Zero has to be one of 16 values, which leaves 15 for two sides:
eight positive, seven negative.
</details>

<details><summary>How is a weight matrix turned into NF4, and how many bits does it take with blocks of
64?</summary>

Read as one line, cut into blocks of 64, each divided by its absmax; for each quotient the code of the nearest of 16
values; two codes to a byte. Bits: 4 + 32/64 = 4.5 with float32 maxima; 4 + 8/64 + 32/(64 · 256) = 4.127 with double
quantisation. Embeddings and norms stay in 16 bits, so a whole small model is far from a quarter of its 16-bit size.
</details>

<details><summary>What is quantised twice in QLoRA, what does it save, and why is the mean taken away first?</summary>

The block maxima, not the weights. It saves 0.37 bits a weight, about 3 GB for 65 billion. Maxima are all positive; a
signed table is used well only when they are centred.
</details>

<details><summary>You have half a bit a weight to spend on quality. Smaller blocks, or outliers kept apart?</summary>

Measure the tails. Outliers apart buy more accuracy for a bit, the more so the wider the tails; smaller
blocks keep the product simple and quick, which usually decides. And measure the model, not only the weights: KL on
your own texts.
</details>

<details><summary>A quantised model got worse. Where do you look?</summary>

First whether it is rounding or a fault: decode each tensor and compare it with the original; errors beside the
expected few per cent point at a layout mistake (swapped half-bytes, wrong axis, missing minimum). Then KL on real
texts with one kind of layer quantised at a time, to find the sensitive ones. Then smaller blocks or more bits for
those.
</details>
"""

# %%
progress()

# %% [markdown]
r"""
## What you can now claim

- "I wrote int8, GGUF's Q4_1 and Q8_0, NF4 and double quantisation from scratch; on a real model my bytes equal
  bitsandbytes' and my decoder reads the 98 MB file equal to gguf's, to the last bit."
- "I can say what each bit of a 4-bit model is for, and I measured what each format costs": put your own table from
  section 7 here.
- "I can find a quantisation fault that raises no error."

Back: *L00, doctor and a tour*; *L07, LoRA from scratch*. Forward: *L09, QLoRA for real*, reads bitsandbytes' own 4-bit
state, trains adapters on top of it, and measures a text-to-SQL run with an interval.
"""
