# %% [markdown]
r"""
# LoRA from scratch

**Your time: about 2½ hours. Running every cell on 2 CPU cores: about 4 minutes**, of which 2½ are one real training
run.

You will write LoRA yourself: the layer, the injection into a real model, the file format, the merge. Each part is
compared with peft, the library that production uses, as soon as you check it. Then you train SmolLM2-135M with your
own code.
"""

# %% [markdown]
r"""
## Why this matters on the job

Fine-tuning all weights of a 7-billion-parameter model with AdamW needs 16 bytes a weight (weight, gradient and two
moments in float32): 112 GB before the first activation. LoRA freezes the weights and trains two thin matrices
beside each layer: under 1 % of the parameters in a large model, a few percent in the 135M model here. The same work
fits on one GPU, the result is a file of megabytes instead of gigabytes, and one server can hold many of them over
one base model. It is the usual first thing to try. When it fails it mostly fails in silence: a flat loss, an
adapter that loads and does nothing, a merge that is slightly off. Knowing each part by hand is what lets you find
such a fault in minutes.
"""

# %%
import json
import math
import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from course.base_model import load_base_model
from course.quiet_libraries import quiet_libraries
from grader import check, hint, progress, reset, solution, use

plt.rcParams.update({"figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white"})
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 90})

# %% [markdown]
r"""
## The idea

A linear layer computes $y = W x$ with $W$ of shape (out, in). Fine-tuning moves $W$ to $W + \Delta W$. LoRA (Hu et
al. 2021) does not store $\Delta W$. It writes it as a product of two thin matrices:

$$ y = W x + \frac{\alpha}{r}\, B\,(A\,x), \qquad A: (r, \text{in}), \quad B: (\text{out}, r). $$

- **rank** $r$: the width of the bottleneck. $B A$ has the shape of $W$ but at most $r$ independent directions.
- **alpha** $\alpha$: a constant. The update is multiplied by $\alpha / r$, which is meant to let you change
  $r$ and keep the learning rate; at large ranks it shrinks the update too much (see rsLoRA, at the end).
- **frozen**: $W$ gets no gradient. Only $A$ and $B$ train.
- $B$ starts at **zero**, $A$ at random. So $BA = 0$ at first: the model begins as exactly the model you had.

For a 576 x 576 layer of our base model and $r = 8$, $W$ holds 331,776 numbers, and $A$ and $B$ together 9,216: 2.8 %.
"""


# %%
def draw_low_rank_update(size: int = 576, r: int = 8) -> None:
    """W, B and A of one layer, drawn to scale."""
    _, axes = plt.subplots(figsize=(8.2, 3.2))
    shapes = [(0, 0, size, size, "#9aa5b1", f"W, frozen\n{size} x {size}")]
    shapes += [(size + 260, 0, r, size, "#d9480f", f"B\n{size} x {r}")]
    shapes += [(size + 400, size - r, size, r, "#1971c2", f"A  {r} x {size}")]
    for left, bottom, width, height, colour, label in shapes:
        axes.add_patch(plt.Rectangle((left, bottom), width, height, color=colour))
        axes.text(left + width / 2, bottom - 40, label, ha="center", va="top", fontsize=10, color="black")
    axes.text(
        size + 130, size / 2, r"$+\ \frac{\alpha}{r}\ \cdot$", fontsize=20, ha="center", va="center", color="black"
    )
    axes.set(xlim=(-40, 2 * size + 440), ylim=(-190, size + 30), aspect="equal")
    axes.axis("off")
    axes.set_title("One adapted layer, to scale: everything that trains is coloured", color="black")
    plt.show()


draw_low_rank_update()

# %% [markdown]
r"""
## Predict before you run: is a real update low-rank?

LoRA bets that the change a task needs has few directions. The next cells take the real model and a real task
(questions about a database, answered with SQL) and compute the **full** gradient of one layer over 16 examples:
what full fine-tuning would subtract from $W$ first. A singular value decomposition splits that matrix into 576
directions, sorted by size.

**Write down your guess: how many of the 576 directions hold 90 % of the squared size of this update?** Two matrices
are measured beside it: the first step that Adam would make of the same gradient (plus or minus the learning rate
for every weight, so only the gradient's signs), and a random matrix.
"""

# %%
from course.sql import bootstrap_interval, load_examples, score_all, to_messages
from course.training import encode_rows
from course.training.batching import answer_loss_sum, make_batch, shared_prefix_model

SCHEMAS = ("airline", "hotel", "library")
model, tokenizer = load_base_model()
train_rows = encode_rows([to_messages(e) for e in load_examples("train", SCHEMAS)], tokenizer, max_length=512).rows
test_examples, ANSWER_TOKENS = load_examples("seen", SCHEMAS), 48
if os.environ.get("COURSE_SMOKE") == "1":
    train_rows, test_examples, ANSWER_TOKENS = train_rows[:4], test_examples[:2], 8
    print("COURSE_SMOKE=1: TWO QUESTIONS AND A FEW STEPS ONLY. The numbers below mean nothing; this tests the cells.")
test_rows = encode_rows([to_messages(e) for e in test_examples], tokenizer, max_length=512).rows
print(f"{len(train_rows)} training rows, {len(test_rows)} test questions in other words; the first test row:\n")
print(tokenizer.decode(test_rows[0].input_ids))


# %%
def directions_for(share: float, matrix: Tensor) -> tuple[int, Tensor]:
    """How many singular directions hold `share` of the squared size, and the running share of each count."""
    squared = torch.linalg.svdvals(matrix.float().cpu()).square()
    running = squared.cumsum(0) / squared.sum()
    return int((running < share).sum()) + 1, running


layer = model.get_submodule("model.layers.15.self_attn.q_proj")
model.requires_grad_(False)
layer.weight.requires_grad_(True)
with shared_prefix_model(model):
    for start in range(0, min(16, len(train_rows)), 8):
        answer_loss_sum(model, make_batch(train_rows[start : start + 8]).to(model.device)).backward()
update = layer.weight.grad
layer.weight.requires_grad_(False)
layer.weight.grad = None

figure, axes = plt.subplots(figsize=(7, 3.4))
matrices = {"the gradient": update, "Adam's first step": update.sign(), "a random matrix": torch.randn(update.shape)}
for name, matrix in matrices.items():
    count, running = directions_for(0.9, matrix)
    axes.plot(range(1, len(running) + 1), running, label=f"{name}: {count} directions hold 90 %")
axes.set(xlabel="number of singular directions", ylabel="share of squared size", xscale="log", ylim=(0, 1.02))
axes.legend(loc="lower right", fontsize=9)
plt.show()

# %% [markdown]
r"""
On two CPU cores, in bfloat16, the gradient needs 2 directions for 90 %, Adam's first step 153, a random matrix
about 295. So the task pulls this layer in very few directions. What full fine-tuning with Adam then does to the
weights is another matter: by scaling every weight on its own, Adam spreads the same pull over many directions.
LoRA's bet is not that full fine-tuning *makes* a low-rank change, but that a low-rank change *suffices*. That is
one layer and one moment; the paper measures the bet in its section 7, and a task far from what the model knows,
such as a new language, needs more rank.

## The layer

Write the layer. Two details carry most of the trouble people have with it:

1. **The start.** $\partial L / \partial B$ is multiplied by $A$, and $\partial L / \partial A$ by $B$. Think
   through what happens if both start at zero, and what happens to the first answer if neither does.
2. **Number types.** Large bases are kept in bfloat16, which has 8 significant bits (7 stored, the leading 1 implied),
   so adding less than 0.2 % of a number to it changes nothing. Updates are smaller than that, so the adapter stays
   in float32 whatever the base is.
"""

# %% exercise="lora_linear"

# %% [markdown]
r"""
## How much rank does a task need?

Here is a task whose answer we know: a frozen 64 x 64 layer has to become another one, which differs by an update
with 16 directions of falling size. Your layer is trained at six ranks. The dashed line is the best that *any*
matrix of rank $r$ can do (Eckart and Young 1936: the sum of the squared singular values that were left out).

**Guess first: how does the loss fall between $r = 1$ and $r = 32$, and where does it stop falling?**
"""

# %%
LoraLinear = use("lora_linear")


def fit_at_rank(r: int, base: nn.Linear, target: Tensor, inputs: Tensor, steps: int = 400) -> float:
    """Train one adapted layer towards `target` and return the final mean squared error."""
    torch.manual_seed(0)
    adapted = LoraLinear(base, r, alpha=2 * r)
    optimizer = torch.optim.Adam([adapted.lora_A, adapted.lora_B], lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        error = (adapted(inputs) - inputs @ target.T).square().mean()
        error.backward()
        optimizer.step()
        schedule.step()
    return error.item()


generator = torch.Generator().manual_seed(0)
base = nn.Linear(64, 64, bias=False)
sizes = 2.0 ** -torch.arange(16)  # singular values of the update: 1, 1/2, 1/4, ...
left, _ = torch.linalg.qr(torch.randn(64, 16, generator=generator))
right, _ = torch.linalg.qr(torch.randn(64, 16, generator=generator))
target = base.weight.detach() + left @ sizes.diag() @ right.T
inputs = torch.randn(512, 64, generator=generator)
ranks = [1, 2, 4, 8, 16, 32]
reached = [fit_at_rank(r, base, target, inputs) for r in tqdm(ranks, desc="ranks")]
possible = [sizes[r:].square().sum().item() / 64 for r in ranks]

figure, axes = plt.subplots(figsize=(7, 3.4))
axes.loglog(ranks, reached, "o-", base=2, label="your layer, after 400 steps")
axes.loglog(ranks[:4], possible[:4], "k--", base=2, label="best possible at this rank")
axes.set(xlabel="rank r", ylabel="mean squared error")
axes.set_xticks(ranks, [str(r) for r in ranks])
axes.legend()
plt.show()

# %% [markdown]
r"""
In our run the loss was 0.0052 at $r = 1$, 0.0013 at 2, 0.00008 at 4 and 0.00001 at 8. Up to $r = 4$ your layer is as
good as any matrix of its rank. From 8 on the 400 steps are the limit, not the rank: at 8 the best possible would be
0.0000003, 30 times lower. So the loss goes on falling, and what more rank could buy is no longer reached.

On a real task you cannot see the dashed line, so rank is a hyperparameter: 8 or 16 on all linear layers is a sound
first choice, and whether 64 helps is a question for your evaluation.

## Into the model

A Llama block has seven linear layers: `q_proj`, `k_proj`, `v_proj`, `o_proj` in attention and `gate_proj`,
`up_proj`, `down_proj` in the feed-forward part. Which of them to adapt is named by patterns, and peft's rules for
patterns are worth knowing exactly, because a pattern that matches too much or too little raises no error:

| `targets` | matches |
|---|---|
| `["q_proj", "v_proj"]` | names that equal an entry or end with `.` + entry |
| `"all-linear"` | every linear layer except the output head |
| any other string | a regular expression for the whole name |

Replacing a layer takes one more thing to know. Its name has dots, and `setattr(model, name, new)` does not follow
them: it makes an attribute with dots in its name, and the model runs on as before. `get_submodule` reads and
`set_submodule` replaces by such a path; without them, find the parent by everything before the last dot and set the
last word there.
"""

# %% exercise="inject_lora"

# %% [markdown]
r"""
## Your LoRA equals peft's, on the real model

Put your layer into all 210 linear layers of SmolLM2 and give peft the same job on a second copy of the model. Then
fill both with the same random adapters and compare every output number.

**Predict: what share of all parameters trains at $r = 16$? And how far apart will the two models' outputs be?**
"""

# %%
inject_lora = use("inject_lora")
with quiet_libraries():
    from peft import LoraConfig, get_peft_model

R, ALPHA = 16, 32
torch.manual_seed(0)
names, trainable = inject_lora(model, "all-linear", lambda linear: LoraLinear(linear, R, ALPHA))
theirs = get_peft_model(load_base_model()[0], LoraConfig(r=R, lora_alpha=ALPHA, target_modules="all-linear"))
total = sum(parameter.numel() for parameter in model.parameters())
print(f"yours: {len(names)} layers, {trainable:,} of {total:,} parameters train: {100 * trainable / total:.2f} %")
print(f"peft:  {theirs.get_nb_trainable_parameters()[0]:,} train")

generator = torch.Generator().manual_seed(1)
for name in names:
    mine, peft_layer = model.get_submodule(name), theirs.base_model.model.get_submodule(name)
    with torch.no_grad():
        mine.lora_B.copy_(torch.randn(mine.lora_B.shape, generator=generator) / 100)  # zeros would prove nothing
        peft_layer.lora_A["default"].weight.copy_(mine.lora_A)
        peft_layer.lora_B["default"].weight.copy_(mine.lora_B)

question = tokenizer("The capital of France is", return_tensors="pt").to(model.device)
with torch.no_grad():
    own_logits, peft_logits = model(**question).logits, theirs(**question).logits
difference = (own_logits - peft_logits).abs().max().item()
print(f"\nlargest difference between your logits and peft's: {difference}")
assert difference < 0.02 * own_logits.abs().max(), "your layer and peft's differ on the real model"
del theirs, peft_logits

# %% [markdown]
r"""
Zero, if your layer adds and multiplies in the order of the equation above, as peft does. If you chose another
order, rounding in the last bits shows here, and that is no mistake: the check that you passed allows for it.
"""

# %% [markdown]
r"""
## Broken code: a run that does not learn

The run below is finished, raises nothing, and learns nothing. It holds **three** faults, each of them enough on its
own to keep the loss flat, and each easy to make.
"""


# %%
def broken_run(base, inputs, targets, r, alpha, learning_rate, steps):
    """Fits an adapter to targets. Or so it says."""
    optimizer = torch.optim.AdamW(base.parameters(), lr=learning_rate, weight_decay=0.0)
    for frozen in base.parameters():
        frozen.requires_grad = False
    down = nn.Linear(base.in_features, r, bias=False)
    up = nn.Linear(r, base.out_features, bias=False)
    for matrix in (down.weight, up.weight):
        nn.init.zeros_(matrix)
    losses = []
    for _ in range(steps):
        prediction = base(inputs) + (alpha / r) * up(down(inputs))
        loss = ((prediction - targets) ** 2).mean()
        loss.backward()
        for module in (down, up):
            module.zero_grad()
        optimizer.step()
        losses.append(loss.item())
    return {"losses": losses, "down": down, "up": up, "optimizer": optimizer}


targets = inputs @ target.T
broken = broken_run(base, inputs, targets, r=4, alpha=8.0, learning_rate=2e-2, steps=100)
print(f"loss at step 0: {broken['losses'][0]:.4f}, at step 99: {broken['losses'][-1]:.4f}")

# %% [markdown]
r"""
Find the three before you repair them. What can be looked at: the gradients right before `optimizer.step()` (`None`,
zeros or numbers?), the parameters that the optimizer holds, and the value of both matrices before the first step.
Then write the repaired run. If you mend one fault and the check still fails, its message says what it saw.
"""

# %% exercise="repair_lora"

# %%
repair_lora = use("repair_lora")
repaired = repair_lora(base, inputs, targets, r=4, alpha=8.0, learning_rate=2e-2, steps=100)
figure, axes = plt.subplots(figsize=(7, 3))
axes.semilogy(broken["losses"], "k--", label="broken")
axes.semilogy(repaired["losses"], label="repaired")
axes.set(xlabel="step", ylabel="mean squared error")
axes.legend()
plt.show()

# %% [markdown]
r"""
## A real run with a number to keep

Now train the real model with your own adapter: questions about three small databases, to be answered with SQL. The
test questions are written by hand in other words than the training rows. Two numbers are measured before and after:

- **answer loss**: mean cross-entropy per answer token on the test rows;
- **executed accuracy**: the share of test questions for which the model's query, run against the database, returns
  what the right query returns.

**Predict both after 64 steps of 8 rows**, one and a half passes over the training rows. (The measurement before
training takes about a quarter of a minute.)
"""

# %%
from course.generation import generate_batch


def answer_loss(rows) -> float:
    """Mean cross-entropy per answer token over encoded rows."""
    summed = 0.0
    with torch.no_grad(), shared_prefix_model(model):
        for start in range(0, len(rows), 8):
            summed += answer_loss_sum(model, make_batch(rows[start : start + 8]).to(model.device)).item()
    return summed / sum(row.answer_tokens for row in rows)


def executed() -> tuple[list[bool], list[str]]:
    """For each test question, whether the answer's result is right, and the answer."""
    prompts = [to_messages(example, with_answer=False) for example in test_examples]
    answers = generate_batch(model, tokenizer, prompts, ANSWER_TOKENS)
    return [judged.correct for judged in score_all(answers, test_examples)], answers


for name in names:  # back to a fresh start: the comparison with peft left random values behind
    nn.init.zeros_(model.get_submodule(name).lora_B)
loss_before = answer_loss(test_rows)
right_before, answers_before = executed()
print(f"before: answer loss {loss_before:.3f}, right answers {sum(right_before)} of {len(right_before)}")

# %% [markdown]
r"""
The loop is the whole of training: pick rows, compute the loss of their answers, clip the gradient, step. The
learning rate climbs for four steps and then falls in a line to zero. 1e-3 is about ten times what full fine-tuning
takes, which is the ratio that Schulman et al. (2025, *LoRA Without Regret*) measured. On 2 cores this cell takes
two to four minutes in float32, measurement included.
"""

# %%
ROWS_PER_STEP, STEPS, LEARNING_RATE = 8, 64, 1e-3
if os.environ.get("COURSE_SMOKE") == "1":
    ROWS_PER_STEP, STEPS = 2, 2
learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(learning, lr=LEARNING_RATE, weight_decay=0.0)
shuffle = random.Random(0)
passes = -(-STEPS * ROWS_PER_STEP // len(train_rows))  # rounded up
order = [row for _ in range(passes) for row in shuffle.sample(range(len(train_rows)), len(train_rows))]
losses, tokens, started = [], 0, time.perf_counter()
with shared_prefix_model(model):
    for step in (bar := tqdm(range(STEPS), desc="training", unit="step")):
        rows = [train_rows[i] for i in order[step * ROWS_PER_STEP : (step + 1) * ROWS_PER_STEP]]
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1.0, (step + 1) / 4) * (1 - step / STEPS)
        batch = make_batch(rows).to(model.device)
        loss = answer_loss_sum(model, batch) / len(batch.answers)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        tokens += batch.tokens
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
seconds = time.perf_counter() - started

loss_after = answer_loss(test_rows)
right_after, answers_after = executed()
print(
    f"{tokens:,} tokens in {seconds:.0f} s: {tokens / seconds:.0f} tokens/s, {100 * trainable / total:.2f} % of weights"
)
print(f"answer loss on unseen phrasings: {loss_before:.3f} -> {loss_after:.3f}")
low, high = bootstrap_interval(right_after, seed=0, before=right_before)
print(f"right answers: {sum(right_before)} -> {sum(right_after)} of {len(right_after)}")
print(f"gain in executed accuracy: 95 % interval {low:.0%} to {high:.0%}")

# %%
from pathlib import Path

from course.device import device_profile
from course.run_record import write_record

smoke = os.environ.get("COURSE_SMOKE") == "1"
record = {
    "smoke": smoke,
    "model": device_profile().model,
    "questions": len(right_after),
    "right_before": int(sum(right_before)),
    "right_after": int(sum(right_after)),
    "gain": {
        "points": 100 * (sum(right_after) - sum(right_before)) / len(right_after),
        "low": 100 * low,
        "high": 100 * high,
    },
    "answer_loss": {"before": loss_before, "after": loss_after},
    "tokens": tokens,
    "training_seconds": round(seconds, 1),
    "tokens_per_second": round(tokens / seconds, 1),
    "trainable_parameters": trainable,
    "parameters": total,
}
record_file = Path("runs") / f"l07{'-smoke' if smoke else ''}" / "result.json"
write_record(record_file, "l07_lora", record)
print(f"written: {record_file}")

# %% [markdown]
r"""
These numbers are kept in `runs/l07/result.json`. The interval is wide because 48 questions are few; L09 trains longer,
on all schemas, and tests on many more.
"""

# %%
figure, (left_axes, right_axes) = plt.subplots(1, 2, figsize=(10, 3.4))
left_axes.plot(losses)
left_axes.axhline(loss_after, color="k", linestyle="--", label="test questions, after")
left_axes.set(xlabel="step", ylabel="loss per answer token", title="training")
left_axes.legend()
for kind, colour in (("q_proj", "#1971c2"), ("down_proj", "#d9480f")):
    for number, name in enumerate(n for n in names if n.endswith(kind)):
        lora = model.get_submodule(name)
        # B A = (Q_B R_B)(Q_A R_A)^T, and the Qs turn without stretching: R_B R_A^T has the same singular values, R x R.
        in_b, in_a = (torch.linalg.qr(part.detach().float().cpu()).R for part in (lora.lora_B, lora.lora_A.T))
        values = torch.linalg.svdvals(in_b @ in_a.T) * lora.scale
        right_axes.semilogy(range(1, R + 1), values, color=colour, alpha=0.4, label=kind if number == 0 else None)
right_axes.set(xlabel="direction", ylabel="singular value", title=f"what was learned, rank {R}")
right_axes.legend()
figure.tight_layout()
plt.show()
for example, old, new in list(zip(test_examples, answers_before, answers_after, strict=True))[:4]:
    print(f"\n{example.question}\n  before: {old.strip()[:90]!r}\n  after:  {new.strip()!r}\n  right:  {example.sql!r}")

# %% [markdown]
r"""
Look at the right-hand picture: in every layer the 16 directions that it was given are used, but unevenly; the first
carries several times what the last does. When the last values are close to the first, a higher rank is worth a try.

## On disk

An adapter is two files: the matrices (`adapter_model.safetensors`) and the settings needed to rebuild the layers
(`adapter_config.json`). Write them as peft does, and every tool that reads peft reads yours: transformers, vLLM,
TGI, llama.cpp's converter. Get one name wrong and peft warns, loads nothing, and answers with the untouched base
model. In a service, that warning is a line in a log that nobody reads.
"""

# %% exercise="save_adapter"

# %%
save_adapter = use("save_adapter")
with quiet_libraries():
    from peft import PeftModel

adapter_folder = record_file.parent / "sql_adapter"
save_adapter(model, str(adapter_folder), "SmolLM2-135M-Instruct")
adapter_bytes = sum(file.stat().st_size for file in adapter_folder.iterdir())
weights_bytes = sum(p.numel() * p.element_size() for p in load_base_model()[0].parameters())
loaded = PeftModel.from_pretrained(load_base_model()[0], adapter_folder).eval()
with torch.no_grad():
    trained_logits = model(**question).logits
    difference = (trained_logits - loaded(**question).logits).abs().max().item()
print(f"{adapter_folder}: {adapter_bytes / 1e6:.1f} MB (float32), base model: {weights_bytes / 1e6:.0f} MB")
print(f"peft loads your trained adapter; largest difference of the logits: {difference}")
assert difference < 0.02 * trained_logits.abs().max(), "the adapter that peft loaded is not the one you trained"
del loaded

# %% [markdown]
r"""
## Merging

Serving an adapter beside the weights costs two more small products in each layer. Since $W x + s\,B A x = (W +
s\,BA)\,x$, the update can be added into $W$ once, and the model is a plain one again, as quick as the base. What it
costs: the merged model is a full-size copy, it cannot be switched off, and in 16 bits the sum is rounded to what
$W$'s format can hold.

Unmerging by subtraction looks like the inverse, and in 16 bits it is not. In bfloat16 a weight of 0.001 plus an
update of 0.5 rounds to 0.5; subtract 0.5 again and 0 is left: the weight is gone.
"""

# %% exercise="merge_lora"

# %%
merge_lora = use("merge_lora")


def milliseconds_per_call(calls: int = 10) -> float:
    """Median time of one forward pass over the question."""
    taken = []
    with torch.no_grad():
        for _ in range(calls):
            begun = time.perf_counter()
            model(**question).logits.sum().item()  # item() waits for a GPU to finish
            taken.append(1000 * (time.perf_counter() - begun))
    return sorted(taken)[calls // 2]


adapted_milliseconds = milliseconds_per_call()
unmerge = merge_lora(model)
merged_milliseconds = milliseconds_per_call()
with torch.no_grad():
    merged_logits = model(**question).logits
unmerge()
with torch.no_grad():
    back = model(**question).logits
print(
    f"one forward pass: adapter beside the weights {adapted_milliseconds:.0f} ms, merged {merged_milliseconds:.0f} ms"
)
change = (merged_logits - trained_logits).abs().max()
same = (merged_logits.argmax(-1) == trained_logits.argmax(-1)).float().mean()
largest = trained_logits.abs().max()
print(f"largest logit {largest:.1f}, largest change by merging {change:.1g}, same top token {same:.0%}")
print(f"after undoing: {(back - trained_logits).abs().max().item()}")

# %% [markdown]
r"""
The merged model's logits differ, by a few per cent of the largest one when the base is in bfloat16: $W + s\,BA$ was
rounded to the base's number type, and each of the 30 blocks adds its share. That is the price of merging into 16
bits; whether it matters is a question for the evaluation, not for the eye.

## Extension: two descendants

- **rsLoRA** (Kalajdzievski 2023) divides by $\sqrt r$ instead of $r$. With $\alpha / r$ the update, and its
  gradient, shrink as the rank grows, so large ranks learn hardly more than small ones at the same learning rate.
- **DoRA** (Liu et al. 2024) gives each output feature a direction, which LoRA changes, and a length, which is a
  parameter of its own: $y_o = m_o \, \dfrac{(W + s\,BA)_o}{\lVert (W + s\,BA)_o \rVert} \cdot x$.
  Here $(\ldots)_o$ is row $o$ of the matrix. The lengths $m_o$ start as the lengths of the rows of $W$, so with $B = 0$
  the layer starts as the one you had. In the backward pass the denominator counts as a constant: that keeps a second
  path through every row out of the graph and saves its memory, and the paper measured almost no loss of accuracy by it
  (section 4.3).
"""

# %% exercise="dora_linear"

# %% [markdown]
r"""
## Interview questions

<details><summary>Explain LoRA in one minute.</summary>

Freeze the weights. Beside each chosen linear layer train two thin matrices, A (r x in) and B (out x r), and add
(alpha / r) B A x to the layer's output. B starts at zero, so training starts from the unchanged model. Gradients
and optimizer state exist only for A and B, usually around 1 % of the parameters or fewer in large models. The bet
is that the change a task needs has low rank.
</details>

<details><summary>Does LoRA save compute, or memory?</summary>

Memory, mainly: no gradients, no Adam moments and no float32 master copy for the frozen weights. The forward pass
costs slightly more. The backward pass still runs through every layer, but skips the weight gradients of the frozen
ones, so a step takes roughly two thirds of the arithmetic, not 1 %.
</details>

<details><summary>Your LoRA loss is perfectly flat. What do you look at?</summary>

First, after one backward pass, the gradients of A and B: None (not in the graph, or cleared), zero (both matrices
zero) or numbers. Second, whether the optimizer's parameter groups hold those very tensors (an optimizer made before
the injection does not). Third, the learning rate of the current step, and whether every label is -100.
</details>

<details><summary>How do you choose r, alpha and the target layers?</summary>

All linear layers, r = 16, alpha = 2r and a learning rate about ten times that of full fine-tuning are a sound
start. Raise r when training loss stays above full fine-tuning's. Keep alpha / r fixed while changing r, or use
rsLoRA. Decide on an evaluation with an interval, over seeds.
</details>

<details><summary>Merge or keep the adapter apart?</summary>

Merge for one task at the lowest latency. Keep apart for many adapters over one base, for switching off, or when the
base is quantised: merging into 4 bits rounds the update away in part. Keep the adapter file in any case; a merge in
16 bits cannot be undone exactly by subtraction.
</details>

<details><summary>The adapter loads without an error and the answers are the base model's. Why?</summary>

The tensor names do not match, and peft only warned: a missing `base_model.model.` prefix, another library's naming,
or target modules that do not exist. Compare the file's keys with the loaded model's, and assert that some B is not
zero.
</details>
"""

# %%
progress()

# %% [markdown]
r"""
## What you can now claim

- "I wrote LoRA from scratch: layer, injection, file format, merge. On SmolLM2-135M its logits equal peft's exactly,
  and peft loads the adapter I trained."
- "I fine-tuned a 135M model on two CPU cores with it": put your own numbers from above here, before and after.
- "I can say why a LoRA run does not learn, and prove it from gradients and optimizer state."

Back: *L00, doctor and a tour*. Forward: *L09, QLoRA for real*, puts this adapter on 4-bit weights and measures a full
text-to-SQL run with an interval.
"""
