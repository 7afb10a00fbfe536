# %% [markdown]
r"""
# A Llama you wrote, with real weights

**Your time: about 3 hours. Running every cell on 2 CPU cores: about 1½ minutes.**

You will write every part of a Llama: the norm, the feed-forward layer, rotary positions, attention, the model around
them. Each part is compared with transformers' as soon as you check it. Then you read a real model file into it, get
SmolLM2's logits out of it, and let it write text. PyTorch's own versions of what you build (`F.rms_norm`,
`F.scaled_dot_product_attention`) are not accepted as answers; linear layers, `F.silu` and softmax are. Stuck? `hint()`
gives a nudge for the exercise that you checked last.
"""

# %% [markdown]
r"""
## Why this matters on the job

Whoever fine-tunes, quantises or serves language models sooner or later meets one that answers nonsense and raises no
error: a converted checkpoint with two rows swapped, a position table in the wrong precision, a mask that is one off.
All tensors have the right shape, so nothing complains. People who have written the 150 lines once find such a fault
in minutes, because they know which number to look at first. And "draw me a transformer block" is the interview
question of this trade.

The architecture is worth the effort: Llama, Mistral, Qwen, SmolLM and most other open models are this model with
small changes.

Words used below. **Token**: a piece of text with a number, its id. **Hidden size** or **width**: how many numbers
describe one token inside the model (576 here). **Layer**: one attention step and one feed-forward step (30 here).
**Logits**: one number for each token of the vocabulary (49,152), the larger the likelier. **Head**: a slice of
attention that works on its own (9 here, of 64 numbers each); *the* head, `lm_head`, is something else: the last
matrix, which makes logits.
"""

# %%
import math
import os
import time
from collections.abc import Callable

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from course.base_model import load_base_model
from course.lessons.l03_llama.llama_sizes import LlamaSizes
from grader import check, hint, progress, reset, solution, use

plt.rcParams.update({"figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white"})
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 90})
LONG_TOKENS, STORY_TOKENS, TASTE_TOKENS = 1536, 40, 12
if os.environ.get("COURSE_SMOKE") == "1":  # a quick test run
    LONG_TOKENS, STORY_TOKENS, TASTE_TOKENS = 320, 8, 2

theirs, tokenizer = load_base_model(dtype=torch.float32)  # float32, so that "equal" can mean equal
sizes = LlamaSizes.of(theirs.config)
print(sizes)

# %% [markdown]
r"""
## The whole picture

Follow one token. Its id picks a row of the **embedding** matrix: 576 numbers. They are the start of the token's
**residual stream**, a vector that flows through all layers. Each layer *adds* to it twice: once what **attention**
gathered from earlier tokens, once what the **feed-forward layer** made of the vector itself. Both read the stream
through a **norm**. After the last layer, one more norm, and the head turns 576 numbers into 49,152 logits.
"""


# %%
def draw_block() -> None:
    """One layer of a Llama, left to right."""
    _, axes = plt.subplots(figsize=(10, 2.9))
    axes.annotate("", (10.9, 0), (0, 0), arrowprops={"arrowstyle": "-|>", "lw": 3, "color": "#495057"})
    axes.text(0, -0.35, "residual stream\n576 numbers a token", ha="left", va="top", fontsize=9, color="black")
    boxes = [
        (1.2, "RMSNorm", "#e9ecef"),
        (2.9, "attention", "#a5d8ff"),
        (6.2, "RMSNorm", "#e9ecef"),
        (7.9, "SwiGLU", "#ffd8a8"),
    ]
    for left, label, colour in boxes:
        axes.add_patch(plt.Rectangle((left, 0.9), 1.4, 0.7, facecolor=colour, edgecolor="#495057"))
        axes.text(left + 0.7, 1.25, label, ha="center", va="center", fontsize=10, color="black")
    for start in (0.8, 5.8):
        axes.plot([start, start, start + 0.4], [0, 1.25, 1.25], color="#495057")
        axes.annotate(
            "", (start + 2.1, 1.25), (start + 1.8, 1.25), arrowprops={"arrowstyle": "-|>", "color": "#495057"}
        )
        axes.plot([start + 3.5, start + 3.9], [1.25, 1.25], color="#495057")
        axes.annotate("", (start + 3.9, 0.2), (start + 3.9, 1.25), arrowprops={"arrowstyle": "-|>", "color": "#495057"})
        axes.text(
            start + 3.9,
            0,
            "+",
            ha="center",
            va="center",
            fontsize=13,
            color="black",
            bbox={"boxstyle": "circle", "fc": "white"},
        )
    axes.text(3.6, 1.75, "looks at earlier tokens", ha="center", fontsize=9, color="black")
    axes.text(8.6, 1.75, "each token by itself", ha="center", fontsize=9, color="black")
    axes.text(10.95, 0.15, "next layer", fontsize=9, color="black")
    axes.set(xlim=(-0.2, 12), ylim=(-1.1, 2.2))
    axes.axis("off")
    plt.show()


draw_block()

# %% [markdown]
r"""
## Predict before you run: where do the parameters sit?

The model has 134.5 million parameters. **Write down your guess: what share of them is in attention, what share in the
feed-forward layers, what share in the embedding, and what share in the norms?**
"""

# %%
kinds = {"embedding (= head)": "embed_tokens", "attention": "self_attn", "feed-forward": "mlp", "norms": "norm"}
counts = {kind: sum(p.numel() for name, p in theirs.named_parameters() if word in name) for kind, word in kinds.items()}
total = sum(counts.values())
figure, axes = plt.subplots(figsize=(7, 2.2))
axes.barh(list(counts), [count / 1e6 for count in counts.values()], color="#1971c2")
for row, count in enumerate(counts.values()):
    axes.text(count / 1e6 + 1, row, f"{count:,} = {count / total:.2%}", va="center", color="black", fontsize=9)
axes.set(xlabel="million parameters", xlim=(0, 120))
axes.invert_yaxis()
plt.show()

# %% [markdown]
r"""
Three fifths are in the feed-forward layers. The norms hold 35 thousand numbers, a fortieth of a percent, and stand in
front of everything else.

## RMSNorm

The stream grows: every layer adds to it, 60 times in all. A **norm** brings each token's vector back to one size
before attention and the feed-forward layer read it. Llama's divides by the **root mean square** and multiplies by a
learned weight for each feature:

$$ y_i = w_i \, \frac{x_i}{\sqrt{\frac{1}{d}\sum_j x_j^2 + \varepsilon}} $$

LayerNorm, its predecessor, also subtracts the mean. Zhang and Sennrich (2019), who left this out, lost no quality and
saved time.

**In 16 bits** the order of steps matters. Squares overflow: float16 ends at 65,504, which is less than 256². So the
norm is computed in float32, then rounded to the input's type, then multiplied by the weight.
"""

# %% exercise="rms_norm"

# %% [markdown]
r"""
**Guess: how much larger is the stream in front of the last layer than right after the embedding?** And does one token
differ from the others? The next cell measures the root mean square of each token's stream, layer by layer.
"""

# %%
RmsNorm = use("rms_norm")
text = "The river rose all night, and in the morning the bridge was gone."
ids = tokenizer(text, return_tensors="pt").input_ids.to(theirs.device)
with torch.no_grad():
    streams = theirs(ids, output_hidden_states=True).hidden_states[:-1]  # the last one is normalised already
sizes_by_layer = torch.stack([stream[0].square().mean(-1).sqrt() for stream in streams]).cpu()

figure, axes = plt.subplots(figsize=(7, 3.2))
axes.semilogy(sizes_by_layer[:, 1:], color="#1971c2", alpha=0.35)
axes.semilogy(sizes_by_layer[:, 0], color="#d9480f", linewidth=2, label="first token")
axes.plot([], [], color="#1971c2", label="the other tokens")
axes.set(xlabel="layer that reads the stream", ylabel="root mean square")
axes.legend()
plt.show()
others = sizes_by_layer[:, 1:].median(dim=1).values
print(f"median of the other tokens: {others[0]:.3f} into layer 0, {others[-1]:.2f} into layer {len(others) - 1}")
largest, at = sizes_by_layer[:, 0].max(dim=0)
print(f"first token: {sizes_by_layer[0, 0]:.3f} into layer 0, at most {largest:.0f}, into layer {at}")

layer = theirs.model.layers[15]
norm = RmsNorm(sizes.hidden_size, sizes.eps).to(theirs.device)
norm.weight.data.copy_(layer.input_layernorm.weight)
with torch.no_grad():
    difference = (norm(streams[15]) - layer.input_layernorm(streams[15])).abs().max().item()
print(f"your norm with layer 15's weight: largest difference from transformers' {difference:.1g}")
assert difference < 1e-4, "your norm differs from transformers' on the real model"

# %% [markdown]
r"""
In our run the other tokens' streams grew from 0.12 to 30, about 250 times. The first token is another matter: 947 in
front of layer 12, more than a hundred times the others. One layer makes it so (in front of layer 11 it was 5.5, like
the others), and in front of the last layer it is down to 351. Models learn to use it as a place to look at when there
is nothing to look at (Sun et al. 2024, *Massive Activations in Large Language Models*); you will see it again in the
picture of attention. Such few huge numbers are also what makes 8-bit and 4-bit formats difficult: see L08.

## SwiGLU

The feed-forward layer works on each token by itself. It has three matrices. Two read the same vector: `gate_proj` and
`up_proj`, 576 -> 1,536. The gate goes through an **activation**, SiLU, and the product of both goes back through
`down_proj`, 1,536 -> 576:

$$ y = W_{down}\,\big(\mathrm{SiLU}(W_{gate}\,x) \odot W_{up}\,x\big),
\qquad \mathrm{SiLU}(z) = z \cdot \mathrm{sigmoid}(z) $$

($\odot$: number by number.) Think of 1,536 detectors. Each gate says how much of its detector's value passes; unlike a
sigmoid it is not limited to 0 ... 1, and can be slightly negative, as the picture shows.
"""

# %%
z = torch.linspace(-5, 3, 200)
figure, axes = plt.subplots(figsize=(6, 2.8))
for name, function in {"SiLU": F.silu, "GELU": F.gelu, "ReLU": F.relu}.items():
    axes.plot(z, function(z), label=name, linewidth=2.5 if name == "SiLU" else 1.2)
axes.set(xlabel="z", title="Llama's activation and its relatives")
axes.legend()
plt.show()

# %% exercise="swiglu_mlp"

# %% [markdown]
r"""
**Guess: for a given token, what share of the 1,536 gates is nearly closed, between -0.1 and 0.1 after SiLU?**
"""

# %%
SwigluMlp = use("swiglu_mlp")
mlp = SwigluMlp(sizes.hidden_size, sizes.intermediate_size).to(theirs.device)
mlp.load_state_dict(layer.mlp.state_dict())
with torch.no_grad():
    read = layer.post_attention_layernorm(streams[15])
    difference = (mlp(read) - layer.mlp(read)).abs().max().item()
    closed = [
        (F.silu(block.mlp.gate_proj(block.post_attention_layernorm(stream))).abs() < 0.1).float().mean().item()
        for block, stream in zip(theirs.model.layers, streams, strict=True)
    ]
print(f"your layer with layer 15's weights: largest difference {difference:.1g}")
assert difference < 1e-4, "your feed-forward layer differs from transformers' on the real model"
print(f"gates nearly closed: {closed[0]:.0%} in layer 0, {closed[15]:.0%} in layer 15, {closed[29]:.0%} in layer 29")

# %% [markdown]
r"""
23 %, 28 % and 15 % in our run, so most detectors say something about every token: the work is spread out, and few
weights are idle. (The cell feeds each layer the stream in front of its attention, which is close to what it reads.)

## Rotary positions

Attention compares a **query** of one token with the **keys** of others by a dot product. On its own, that does not
know which token came first. Rotary embedding (Su et al. 2021) turns each query and each key by an angle that grows
with its position. The dot product of two turned vectors depends only on the *difference* of their angles, so on the
tokens' distance.

A vector of 64 numbers is taken as 32 points in the plane, and pair $i$ turns with its own frequency $\theta^{-i/32}$:
the first by 1 radian a token, the last once in 438 thousand tokens (with $\theta = 100{,}000$). Quick pairs tell
neighbours apart, slow pairs tell pages apart.

$$ (a, b) \;\to\; (a\cos\varphi - b\sin\varphi,\;\; b\cos\varphi + a\sin\varphi),
\qquad \varphi = \text{position}\cdot\theta^{-i/32} $$

**Which numbers make a pair?** The paper pairs neighbours: (0, 1), (2, 3), ... Llama's files as transformers reads
them pair by **halves**: (0, 32), (1, 33), ... Either is fine, as long as the weights were trained or reordered for
it. With the wrong one the model still speaks, and is confused about where things are. It is the classic mistake
of people who write a Llama.
"""


# %%
def draw_rotary(head_dim: int = 8, theta: float = 100_000.0) -> None:
    """Which features make a pair in both layouts; how the cosine of some pairs runs over the positions."""
    _, (left, right) = plt.subplots(1, 2, figsize=(10, 2.8))
    colours = plt.get_cmap("tab10").colors
    for row, (label, pair_of) in enumerate({"halves (here)": lambda f: f % 4, "neighbours": lambda f: f // 2}.items()):
        for feature in range(head_dim):
            left.add_patch(plt.Rectangle((feature, 1 - row), 0.94, 0.62, color=colours[pair_of(feature)]))
            left.text(feature + 0.47, 1.31 - row, str(feature), ha="center", va="center", color="white", fontsize=11)
        left.text(-0.2, 1.31 - row, label, ha="right", va="center", color="black")
    left.set(xlim=(-3, 8.2), ylim=(-0.2, 2), title="a head of 8 numbers: same colour, same pair")
    left.axis("off")
    positions = torch.arange(0, 200)
    for pair in (0, 4, 8, 16):
        right.plot(positions, (positions * theta ** (-pair / 32)).cos(), label=f"pair {pair}")
    right.set(xlabel="position", title="cosine of the angle, head of 64 numbers")
    right.legend(loc="lower left", fontsize=8)
    plt.show()


draw_rotary()

# %% exercise="apply_rotary"

# %% [markdown]
r"""
**Predict: a query stands at position 8 and a key at position 3. Both move to 1,008 and 1,003. By how much does their
score, the dot product, change? And with the key left at 3?**
"""

# %%
apply_rotary = use("apply_rotary")
generator = torch.Generator().manual_seed(0)
query, key = (torch.randn(1, 1, 1, sizes.head_dim, generator=generator) for _ in range(2))


def score(query_position: int, key_position: int) -> float:
    """Dot product of the turned vectors."""
    turned_query = apply_rotary(query, torch.tensor([query_position]), sizes.theta)
    turned_key = apply_rotary(key, torch.tensor([key_position]), sizes.theta)
    return (turned_query * turned_key).sum().item()


for pair in ((8, 3), (1008, 1003), (1008, 3)):
    print(f"query at {pair[0]:>5}, key at {pair[1]:>5}: score {score(*pair):+.6f}")

# %% [markdown]
r"""
In our run the first two agree to 0.00002 and the third is another number. What is left is rounding: an angle of 1,008
radians has few digits behind the point in float32. In bfloat16 it has none at all, which is the subject of the broken
code below.

## Attention

For each head: queries $Q$, keys $K$ and values $V$ of all tokens, each token 64 numbers.

$$ \mathrm{softmax}\!\left(\frac{Q K^T}{\sqrt{64}} + \text{mask}\right) V $$

Row $t$ of $QK^T$ holds the scores of token $t$ with every token. Three things to get right:

- **Scale.** A dot product of 64 numbers of size 1 has a size of $\sqrt{64} = 8$. Divided by 8 it is of size 1 again,
  and the softmax is neither flat nor all or nothing.
- **Causal mask.** A token may look at itself and at what came before. Scores of later tokens become $-\infty$
  *before* the softmax, so that their share is 0 and the other shares still sum to 1.
- **Grouped queries.** There are 9 query heads and only 3 key-value heads: query heads 0, 1, 2 use key-value head 0,
  and so on. In generation, keys and values of all earlier tokens are kept in memory (the KV cache), and this makes it
  a third as large.
"""


# %%
def draw_attention(heads: int = 9, kv_heads: int = 3, tokens: int = 6) -> None:
    """Which query head uses which key-value head; who may look at whom."""
    _, (left, right) = plt.subplots(1, 2, figsize=(10, 2.8), width_ratios=(2.2, 1))
    colours = ("#1971c2", "#d9480f", "#2f9e44")
    for head in range(heads):
        shared = head // (heads // kv_heads)
        left.add_patch(plt.Rectangle((head, 1.3), 0.8, 0.5, color=colours[shared], alpha=0.55))
        left.text(head + 0.4, 1.55, f"q{head}", ha="center", va="center", color="black")
        left.plot([head + 0.4, 3 * shared + 1.4], [1.3, 0.7], color=colours[shared])
    for shared in range(kv_heads):
        left.add_patch(plt.Rectangle((3 * shared + 0.7, 0.2), 1.4, 0.5, color=colours[shared]))
        left.text(3 * shared + 1.4, 0.45, f"k{shared}, v{shared}", ha="center", va="center", color="white")
    left.set(xlim=(-0.2, 9), ylim=(0, 2), title="9 query heads share 3 key-value heads")
    left.axis("off")
    right.imshow(torch.ones(tokens, tokens).tril(), cmap="Blues", vmin=0, vmax=1.6)
    right.set(xlabel="key", ylabel="query", title="who may look at whom", xticks=range(tokens), yticks=range(tokens))
    right.grid(False)
    plt.show()


draw_attention()

# %% [markdown]
r"""
Mind the layout. `q_proj` gives each token 576 numbers: head 0's 64, then head 1's 64, and so on. To work head by head
you want (batch, heads, tokens, 64). A single `view` or `reshape` to that shape would cut the memory in the wrong
places: split the last axis first, then swap two axes; and at the end the same way back. For the rotary embedding call
`apply_rotary`, which `use` fetched in the cell below its exercise.
"""

# %% exercise="grouped_query_attention"

# %% [markdown]
r"""
Here is what real attention looks like: the shares of three heads of the real model for our sentence. **Guess first
which token gets most of the attention.**
"""

# %%
GroupedQueryAttention = use("grouped_query_attention")
theirs.set_attn_implementation("eager")  # the one that can hand out its table of shares
with torch.no_grad():
    shares = theirs(ids, output_attentions=True).attentions
theirs.set_attn_implementation("sdpa")
words = [tokenizer.decode([token]) for token in ids[0]]
chosen = [(0, 0), (2, 4), (15, 3)]
figure, axes_row = plt.subplots(1, 3, figsize=(12, 4.2))
for axes, (layer_number, head_number) in zip(axes_row, chosen, strict=True):
    axes.imshow(shares[layer_number][0, head_number].cpu(), cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(words)), words, rotation=90, fontsize=7)
    axes.set_yticks(range(len(words)), words, fontsize=7)
    axes.set_title(f"layer {layer_number}, head {head_number}", fontsize=10)
    axes.grid(False)
figure.tight_layout()
plt.show()
to_first = torch.stack([table[0, :, 1:, 0].mean() for table in shares])
print(f"share that goes to the first token, mean of all heads: {to_first.mean():.0%}; least in these layers:")
print(", ".join(f"{number}: {to_first[number]:.0%}" for number in to_first.argsort()[:4].tolist()))

attention = GroupedQueryAttention(sizes.hidden_size, sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.theta)
attention.to(theirs.device).load_state_dict(layer.self_attn.state_dict())
positions = torch.arange(ids.shape[1], device=theirs.device)
with torch.no_grad():
    read = layer.input_layernorm(streams[15])
    tables = theirs.model.rotary_emb(read, positions[None])
    wanted = layer.self_attn(read, position_embeddings=tables, attention_mask=None)[0]
    difference = (attention(read, positions) - wanted).abs().max().item()
print(f"your attention with layer 15's weights: largest difference {difference:.1g}")
assert difference < 1e-4, "your attention differs from transformers' on the real model"
cache_bytes = 2 * sizes.layers * sizes.head_dim * 8192 * 2
print(
    f"keys and values of 8,192 tokens in 16 bits: {sizes.kv_heads * cache_bytes / 1e6:.0f} MB with {sizes.kv_heads} "
    f"key-value heads, {sizes.heads * cache_bytes / 1e6:.0f} MB with {sizes.heads}"
)

# %% [markdown]
r"""
57 % in our run: a head that has nothing to say puts its shares where they do no harm (an *attention sink*, Xiao et
al. 2023). Layers 0, 1, 10 and 11 gave it least, 10 to 31 %. Look back at the picture of the stream: in front of just
these four the first token is about as large as the others, so there it is no special place to look at.

## Weights from a file

Weights come in files, and files have their own names. The course's model comes as **GGUF**, the format of llama.cpp:
272 tensors with names like `blk.7.attn_q.weight`. Your model will have transformers' names. So somebody has to write
the map, and three things go wrong in such maps without an error:

- **Two tensors of one shape are swapped**: gate and up, or the two norms.
- **The head is missing.** Small models *tie* it: the output head *is* the embedding matrix, and the file holds it
  once. Your state dict needs both names, for one tensor.
- **The rows are in another order.** llama.cpp pairs neighbours in its rotary embedding. So whoever writes a GGUF file
  reorders the rows of `q` and `k` to make up for it, and you have to reorder them back. For one head of six rows,
  with pairs (0, 3), (1, 4), (2, 5) in your halves layout, the file holds

```
row in the file       0   1   2   3   4   5
row of your matrix    0   3   1   4   2   5        first of a pair, second of it, first of the next ...
```
"""

# %% exercise="map_gguf"

# %% [markdown]
r"""
Now the real file. The cell below unpacks its 4-bit numbers with the `gguf` library (in L08 you write that yourself),
maps the names with your function, and compares every tensor with the model that transformers made of the same file.
The course stores that model in bfloat16 (and opened it in float32 here), so your tensors are rounded to bfloat16 before
the comparison, and used like that below.
"""

# %%
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize

from course.model_source import bundled_source

map_gguf = use("map_gguf")
reader = GGUFReader(bundled_source().path)
file_tensors = {
    entry.name: torch.from_numpy(np.array(dequantize(entry.data, entry.tensor_type)))
    for entry in tqdm(reader.tensors, desc="unpacking", unit="tensor")
}
print(f"{len(file_tensors)} tensors, among them:")
for name in ("token_embd.weight", "blk.7.attn_q.weight", "blk.7.ffn_down.weight", "output_norm.weight"):
    print(f"  {name:<24} {tuple(file_tensors[name].shape)}")
weights = {name: value.bfloat16().float() for name, value in map_gguf(file_tensors, heads=9, kv_heads=3).items()}
del file_tensors
state = theirs.state_dict()
if {name: value.shape for name, value in weights.items()} != {name: value.shape for name, value in state.items()}:
    print("the model you chose is not the one in this file: going on with its own weights")
    weights = state
equal = sum(torch.equal(weights[name], value.cpu()) for name, value in state.items())
print(f"{equal} of {len(state)} tensors equal transformers', bit for bit")

# %% [markdown]
r"""
## The whole model

All parts are there. What is left is the wiring of the picture at the top, and the names. Three tools of PyTorch:
`nn.ModuleList` holds the layers, `nn.ModuleDict({"norm": ...})` holds parts under names of your choice (a subclass of
`nn.Module` with attributes does as well), and a parameter's name is the path that leads to it:
`model.layers.0.self_attn.q_proj.weight`.

If your logits differ from transformers', the check runs both models, compares what goes into and comes out of every
part in order, and tells you **the first tensor that differs**, by how much, and which known mistake gives just these
numbers.
"""

# %%
RmsNorm, SwigluMlp = use("rms_norm"), use("swiglu_mlp")
GroupedQueryAttention, apply_rotary = use("grouped_query_attention"), use("apply_rotary")

# %% exercise="llama"

# %% [markdown]
r"""
## Your Llama equals transformers', on the real weights

A **strict** load: every name of the model must be in the file and every name of the file in the model.

**Predict: how far apart will the two models' logits be, after 30 layers in float32?**
"""

# %%
Llama = use("llama")
mine = Llama(sizes)
print(mine.load_state_dict(weights, strict=True))
mine.to(theirs.device).eval()
question = [{"role": "user", "content": "What is the capital of France?"}]
prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
prompt_ids = prompt["input_ids"].to(theirs.device)
with torch.no_grad():
    own_logits, their_logits = mine(prompt_ids), theirs(prompt_ids).logits
difference = (own_logits - their_logits).abs().max().item()
same = (own_logits.argmax(-1) == their_logits.argmax(-1)).float().mean().item()
print(f"logits of {prompt_ids.shape[1]} tokens, up to {their_logits.abs().max():.1f} in size")
print(f"largest difference: {difference:.1g}; same top token at {same:.0%} of the positions")
assert difference < 1e-2, "your model's logits differ from transformers'"

# %% [markdown]
r"""
In our run the logits were up to 37.6 in size and differed by 0.00008 at most, with the same top token everywhere. Not
zero, because transformers multiplies and adds in another order, and float32 rounds each time. (A question on the way:
had you counted positions from 1, the logits would be the same up to rounding. Why?)

## When it is not equal: the first tensor that differs

The tool behind the check works on any two models with the same module names. Two calls are worth knowing:
`first_divergence(mine, theirs, ids)` says where; `explain_divergence` also tries the mistakes of this lesson and
names the one that fits.

The next cell breaks your model on purpose, in one layer at a time. **Before you run it: which of the three do you
expect to spoil the text most?**
"""


# %%
from course.lessons.l03_llama.first_divergence import first_divergence
from course.lessons.l03_llama.grouped_query_attention import heads_tiled, scaled_by_head_dim
from course.lessons.l03_llama.llama_report import explain_divergence
from course.lessons.l03_llama.swiglu_mlp import gelu_instead


@torch.no_grad()
def greedy(model: nn.Module, ids: Tensor, new_tokens: int) -> str:
    """The likeliest next token, again and again, until the end-of-turn token. Everything is computed anew each time."""
    start = ids.shape[1]
    for _ in range(new_tokens):
        newest = model(ids)[:, -1].argmax(-1)
        if newest.item() == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, newest[:, None]], dim=1)
    return tokenizer.decode(ids[0, start:])


print("first_divergence:", first_divergence(mine, theirs, prompt_ids))
shape = (sizes.hidden_size, sizes.heads, sizes.kv_heads, sizes.head_dim, sizes.theta)
breaks = {
    "model.layers.4.self_attn": heads_tiled(*shape),
    "model.layers.12.self_attn": scaled_by_head_dim(*shape),
    "model.layers.20.mlp": gelu_instead(sizes.hidden_size, sizes.intermediate_size),
}
for name, broken_part in breaks.items():
    right_part = mine.get_submodule(name)
    broken_part.to(theirs.device).load_state_dict(right_part.state_dict())
    mine.set_submodule(name, broken_part)
    print(f"\n{name} is now a {type(broken_part).__name__}")
    print("  it writes:", repr(greedy(mine, prompt_ids, TASTE_TOKENS)))
    print(" ", explain_divergence(mine, theirs, prompt_ids))
    mine.set_submodule(name, right_part)

# %% [markdown]
r"""
In our run two of the three broken models still answer "The capital of France is Paris.", and the third writes a
fluent sentence in French that is beside the point. This is the lesson of the lesson: *a model with a broken part
writes well*. Reading its text does not find the fault; comparing tensors does, in a minute.

## It writes

The loop in `greedy` above is all of text generation: logits of the last token, the likeliest id, append, again. (It
computes all earlier tokens anew each time; a KV cache saves that.)
"""

# %%
story = [{"role": "user", "content": "Tell me in two sentences why the sky is blue."}]
story_ids = tokenizer.apply_chat_template(story, add_generation_prompt=True, return_tensors="pt", return_dict=True)
story_ids = story_ids["input_ids"].to(theirs.device)
started = time.perf_counter()
written = greedy(mine, story_ids, STORY_TOKENS)
seconds = time.perf_counter() - started
print(written)
output = theirs.generate(
    story_ids,
    attention_mask=torch.ones_like(story_ids),
    max_new_tokens=STORY_TOKENS,
    do_sample=False,
    temperature=None,
    top_p=None,
)
library_text = tokenizer.decode(output[0, story_ids.shape[1] :], skip_special_tokens=True)
print(f"\n{seconds:.1f} s; the same text as transformers' generate: {written.strip() == library_text.strip()}")

# %% [markdown]
r"""
## Broken code: fine on short texts

The class below makes the cosines and sines for the rotary embedding, once, and keeps them. Like every part of a model
it may be converted to bfloat16. It answers short questions just as the right one does, and it has **two** faults.
"""


# %%
class BrokenRotaryTables(nn.Module):
    """Cosines and sines for positions (batch, tokens). Or so it says."""

    def __init__(self, head_dim: int, theta: float) -> None:
        super().__init__()
        pairs = torch.arange(0, head_dim, 2)
        self.register_buffer("inv_freq", 1.0 / theta ** (pairs / head_dim), persistent=False)
        self.angles = None

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        if self.angles is None:  # computed once, with some room
            length = max(256, int(position_ids.max()) + 1)
            steps = torch.arange(length, device=x.device).to(self.inv_freq.dtype)
            self.angles = torch.outer(steps, self.inv_freq)
        rows = self.angles[position_ids.clamp(max=len(self.angles) - 1)]  # the clamp ended an IndexError
        rows = torch.cat([rows, rows], dim=-1).float()
        return rows.cos().to(x.dtype), rows.sin().to(x.dtype)


right_tables = theirs.model.rotary_emb
broken = BrokenRotaryTables(sizes.head_dim, sizes.theta).to(theirs.device, torch.bfloat16)
for label, rotary_tables in {"right": right_tables, "broken": broken}.items():
    theirs.model.rotary_emb = rotary_tables
    print(f"{label:>6}: {greedy(lambda ids: theirs(ids).logits, prompt_ids, TASTE_TOKENS)!r}")
theirs.model.rotary_emb = right_tables

# %% [markdown]
r"""
Both know the capital. Now a long text: 1,536 tokens of the Python language reference, which comes with every Python.
The picture shows the loss along the text: how surprised the model is by each next token; lower is better. **Guess:
where does the broken one's curve leave the right one's, and how far up does it go?**
"""

# %%
from pydoc_data.topics import topics

long_text = "\n\n".join(
    topics[name] for name in ("execmodel", "exceptions", "naming", "objects", "import") if name in topics
)
long_ids = tokenizer(long_text, return_tensors="pt").input_ids[:, :LONG_TOKENS].to(theirs.device)
WINDOW = 64


@torch.no_grad()
def loss_along(tables: nn.Module) -> Tensor:
    """Mean loss of each stretch of WINDOW tokens, with these rotary tables in the real model."""
    theirs.model.rotary_emb = tables
    logits = theirs(long_ids).logits[0, :-1]
    theirs.model.rotary_emb = right_tables
    losses = torch.cat(
        [
            F.cross_entropy(part, ids, reduction="none")
            for part, ids in zip(logits.split(256), long_ids[0, 1:].split(256), strict=True)
        ]
    )
    return losses[: len(losses) // WINDOW * WINDOW].reshape(-1, WINDOW).mean(1).cpu()


def draw_losses(curves: dict[str, Tensor]) -> None:
    _, axes = plt.subplots(figsize=(8, 3.2))
    for style, (label, losses) in zip(("-", "--", "-.", ":"), curves.items(), strict=False):
        axes.plot((torch.arange(len(losses)) + 0.5) * WINDOW, losses, style, label=f"{label}: mean {losses.mean():.2f}")
    axes.set(xlabel="position in the text", ylabel=f"loss, mean of {WINDOW} tokens")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    plt.show()


curves = {"right": loss_along(right_tables), "broken": loss_along(broken)}
draw_losses(curves)

# %% [markdown]
r"""
Find both faults before you write. Your class has the same two methods.

<details><summary>What to look at</summary>

The dtype of `inv_freq` after `.to(torch.bfloat16)`, the whole numbers that bfloat16 can hold above 256, and what the
second, longer text gets. </details>
"""

# %% exercise="rotary_tables"

# %%
from course.lessons.l03_llama.rotary_tables import still_16_bit_angles

RotaryTables = use("rotary_tables")
repaired = RotaryTables(sizes.head_dim, sizes.theta).to(theirs.device, torch.bfloat16)
repaired(torch.zeros(1, device=theirs.device), prompt_ids * 0)  # a short text first, as above
curves["only the length repaired"] = loss_along(
    still_16_bit_angles(sizes.head_dim, sizes.theta).to(long_ids.device, torch.bfloat16)
)
curves["repaired"] = loss_along(repaired)
draw_losses(curves)
gap = (curves["repaired"] - curves["right"]).abs().max().item()
print(f"largest difference from the right curve: {gap:.1g}")

# %% [markdown]
r"""
In our run the mean loss was 2.55 with the right tables, 4.61 with the broken ones, and 3.46 with a table that is long
enough but made of 16-bit positions; your repaired one agreed with the right curve to 0.000003. Up to token 256 all
agree to 0.02. Then the two faults look different: a table that ends gives a jump at its end (1 in the first 64 tokens,
2 to 3 after that), rounded positions a gap that widens. bfloat16 holds every whole number up to 256, every second one
up to 512, every fourth up to 1,024.

transformers' own `LlamaRotaryEmbedding` keeps its frequencies in a buffer as well. `from_pretrained(dtype=...)`
leaves it in float32. `.to(torch.bfloat16)` on a model that is already loaded rounds it, by up to 0.3 % in our run. So
pass the dtype when you load.

## Extension: count before you load

How large is a model, and how long does it take? Both follow from ten numbers: seven sizes, whether the head is tied,
and the two of the input's shape. A matrix of $n$ numbers costs $2n$ **FLOPs** (floating-point operations: a
multiplication and an addition each) for every token. On top come the two products inside attention, which grow with
the square of the tokens.
"""

# %% exercise="count_llama"

# %% [markdown]
r"""
## A real run with a number to keep

The last comparison: your model and transformers' on the first 512 tokens of the long text. **Predict: the difference
of the two perplexities** (perplexity: e to the mean loss; 10 means as unsure as a choice among ten), **and who is
quicker.**
"""

# %%
count_llama = use("count_llama")
part = long_ids[:, :512]


@torch.no_grad()
def timed(model: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """(mean loss on the text, seconds of the second of two runs)."""
    for _ in range(2):
        started = time.perf_counter()
        logits = model(part)
        loss = F.cross_entropy(logits[0, :-1], part[0, 1:]).item()
        seconds = time.perf_counter() - started
    return loss, seconds


flops = count_llama(
    vocab_size=sizes.vocab_size,
    hidden_size=sizes.hidden_size,
    intermediate_size=sizes.intermediate_size,
    layers=sizes.layers,
    heads=sizes.heads,
    kv_heads=sizes.kv_heads,
    head_dim=sizes.head_dim,
    tied=sizes.tied,
    batch=1,
    tokens=part.shape[1],
)["flops"]
print(f"{'':<13}{'perplexity':>12}{'tokens/s':>10}{'GFLOP/s':>9}")
for label, model in {"yours": mine, "transformers": lambda ids: theirs(ids).logits}.items():
    loss, seconds = timed(model)
    print(f"{label:<13}{math.exp(loss):>12.5f}{part.shape[1] / seconds:>10.0f}{flops / seconds / 1e9:>9.0f}")

# %% [markdown]
r"""
In our run, on one CPU core: perplexity 18.43903 against 18.43904, and 305 tokens a second against 331, or 93 and 101
billion operations a second. Keep the line with your name on it. The small gap in speed is the price of a full table
of scores.

## Interview questions

<details><summary>Draw a Llama block. Where are the parameters, where is the compute?</summary>

Residual stream; RMSNorm, attention, add; RMSNorm, gated feed-forward layer, add. In SmolLM2-135M 59 % of the
parameters are in the feed-forward layers, 20 % in attention, 21 % in the tied embedding. Compute follows the
parameters, 2 operations each a token, plus the part of attention that grows with the square of the length. </details>

<details><summary>Why RMSNorm and not LayerNorm? Why before each sublayer?</summary>

It leaves out the mean and the bias, is cheaper, and is as good. Before the sublayer (pre-norm), the residual path
stays free of norms, so gradients reach the first layers unchanged and training is stable (Xiong et al. 2020). The
norm is computed in float32, because squares overflow float16 and sums lose digits in bfloat16. </details>

<details><summary>Why is Llama's intermediate size 8/3 of the hidden size and not 4 times?</summary>

A gated layer has three matrices instead of two. With 8/3 the count is the same: 3 * 8/3 = 8 = 2 * 4. (SmolLM2's 1,536
is exactly 8/3 of 576.) </details>

<details><summary>How does rotary embedding encode relative positions? Why are values not rotated?</summary>

Queries and keys are turned by angles proportional to their positions; the dot product of two turned vectors depends
on the difference of the angles only. Values are what is mixed: turning them would put the absolute position into the
output. </details>

<details><summary>What do grouped queries save, and what do they cost?</summary>

The KV cache and its traffic, by the ratio of query to key-value heads (three here): larger batches and longer
contexts in the same memory, quicker decoding. Scores are still computed for every query head. Quality drops slightly
against full multi-head attention and is better than with a single key-value head (Ainslie et al. 2023). </details>

<details><summary>A converted checkpoint loads without errors and answers nonsense. What do you do?</summary>

Run the original and the converted model on one fixed input and find the first tensor that differs. If it is a
module's output with equal inputs, compare its weights: swapped names, transposed, reordered rows. If weights agree,
the arithmetic between the last equal tensor and the first different one is at fault: rotary layout, scale, mask, head
order, eps. </details>

<details><summary>A model is good on short prompts and degrades beyond some length. What do you suspect?</summary>

Positions: tables in 16 bits, tables that end, a theta or a scaling that is not the one of training. Then the context
that it was trained on, sliding windows, and a cache that drops entries. Plot loss against position: a jump points to
a table's end, a slow rise to precision or to scaling. </details>

<details><summary>How many operations does a generated token of an 8B model take, and what limits its speed?</summary>

About 16 billion, which an H100 does in well under a millisecond. But all 16 GB of 16-bit weights must be read for it,
at 3.35 TB/s nearly 5 ms: decoding one sequence is limited by memory, not by arithmetic. Hence batching, quantisation
and speculative decoding. </details>
"""

# %%
progress()

# %% [markdown]
r"""
## What you can now claim

- "I wrote a Llama from scratch in PyTorch and loaded SmolLM2-135M's real weights from its GGUF file; its logits agree
  with transformers' to" (your number from above).
- "I can find the first tensor in which two models differ, and say which mistake makes that difference."
- "I know why models degrade on long texts, and have repaired a rotary table that did."

Back: *L01, tokens and chat text*, made the ids that go in here. Forward: *L05* turns conversations into training rows
for this model; *L07, LoRA from scratch*, adapts the linear layers that you wrote; *L08* writes the unpacking of the
file's 4-bit numbers that a library did here.
"""
