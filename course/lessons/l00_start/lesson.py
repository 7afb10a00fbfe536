# %% [markdown]
r"""
# Doctor and a tour of the grader

**About 45 minutes for you.** The notebook itself runs in about one minute on two CPU cores.

You will check what your machine can do, hear the first words of the language model that this course fine-tunes, and
learn to work with the grader: the part that reads your answers and tells you what is wrong with them. You leave
with four small functions that you will meet again: bytes of a tensor, a machine report, a rule that picks a
training method, and a way to make a run repeat exactly.

## Why this matters on the job

The first hour of most fine-tuning jobs goes to three questions. Does the model fit? Does this machine compute in
the number type the script asks for? And if I run it twice, do I get the same result? An engineer who answers them
in a minute, with numbers, saves the team days of "works on my machine". They also come up in interviews, usually as
"you have one 24 GB GPU: what do you do?"
"""

# %%
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from grader import check, hint, progress, reset, solution, use

# %% [markdown]
r"""
## The path

The next cell draws the lessons from the course's own syllabus. An arrow says that a lesson builds on another one.
"""

# %%
from course.syllabus import COURSE

columns = len(COURSE.modules)
rows = max(len(module.lessons) for module in COURSE.modules)
_, axes = plt.subplots(figsize=(3.6 * columns, 0.7 + 1.1 * rows), facecolor="white")
axes.set(xlim=(-0.5, columns - 0.5), ylim=(0.5 - rows, 0.9))
axes.axis("off")
boxes = {}
for column, module in enumerate(COURSE.modules):
    axes.text(column, 0.7, module.title, ha="center", weight="bold", color="black")
    for row, lesson in enumerate(module.lessons):
        label = f"{lesson.id[:3].upper()}  {lesson.title}\n{lesson.minutes / 60:.2g} hours"
        style = {"boxstyle": "round,pad=0.5", "facecolor": "#e8f0fe", "edgecolor": "#3367d6"}
        boxes[lesson.id] = axes.text(
            column, -row, label, ha="center", va="center", bbox=style, color="black", fontsize=9
        )
for lesson in COURSE.lessons:
    for earlier in lesson.needs:
        start, end = boxes[earlier], boxes[lesson.id]
        arrow = {"arrowstyle": "->", "color": "#3367d6", "lw": 1.5}
        arrow |= {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
        axes.annotate("", xy=end.get_position(), xytext=start.get_position(), arrowprops=arrow)
plt.show()

# %% [markdown]
r"""
### Where to start, and how long it takes

`make lab` opened the **course home**, a page with this path, what you have passed, and one link to where you
stopped. The button *Course home* above this notebook leads back to it. From there:

- The **placement** asks ten questions, takes about 10 minutes, and suggests where to start and which lessons you
  may skip, with the reason for each. It asks where you come from: a backend, a data and a DevOps engineer meet the
  lessons in different orders. In a terminal: `course placement`.
- The **plan** lays out the lessons that are left over your weeks. In a terminal: `course plan --hours 6`.

Nothing is locked: where you skip a lesson, the course's own answers stand in for yours.

## First words

The model you will work with is **SmolLM2-135M-Instruct**: 135 million parameters, trained by others on two trillion
tokens, then taught to follow instructions (Ben Allal et al. 2025, *SmolLM2: When Smol Goes Big*). It lies on your
disk; nothing here needs a network. A *token* is a piece of text, often a word or a part of one; the model reads and
writes tokens.

**Predict before you run.** Write down two guesses:

1. Does a model this small know the capital of France?
2. Can it write a correct SQL query for the second question below?
"""

# %%
from course.base_model import load_base_model
from course.generation import generate_batch

model, tokenizer = load_base_model()
questions = (
    "What is the capital of France?",
    "The SQLite table orders has the columns id, city and amount. Write one query that gives the total amount for each "
    "city, largest first. Answer with the query only.",
)
conversations = [[{"role": "user", "content": question}] for question in questions]
answers = generate_batch(model, tokenizer, conversations, max_new_tokens=60, progress=False)
for question, answer in zip(questions, answers, strict=True):
    print(f"You:   {question}\nModel: {answer.strip()}\n")

# %% [markdown]
r"""
It answers in whole sentences, it knows some facts, and as for SQL: read the query with a critical eye. Would the
database run it? Does it answer the question? In L09 you ask the model hundreds of such questions, count how many of
its queries return the right rows, fine-tune it, and count again.

## How a check works

Each exercise is a cell with a function that is not written yet (a *stub*: its last line raises
`NotImplementedError`), and below it a cell with `check(...)`. The check calls your function on inputs made from a
seed, and compares what comes back with the truth, wherever possible by calling the production library (PyTorch,
peft, bitsandbytes) right then:

```
   seed ──► cases ──► your function ──► your output ─┐
              │                                      ├─► same type, shape, dtype, values? ──► status
              └─────► the library ────► the truth ───┘             │ no
                                                       known wrong answers give the same output?
                                                                   └──► the hint for that mistake
```

Two rules hold everywhere unless a docstring says otherwise: leave your arguments as you got them (a function that
changes its caller's list or tensor is a bug that surfaces far away), and do not call the library function that the
exercise asks you to build; a check says so when you do.

| status | what happened | counts as a try |
|---|---|---|
| `todo` | the stub is still there | no |
| `passed` | every case agrees | no |
| `failed` | your function returned something else; you are told what, and which mistake it looks like | yes |
| `crashed` | your function raised an error, ran out of time, or ended the kernel | yes |
| `broken` | the exercise itself is at fault, not you | no |

Some cases are hidden: of these you are told what is special about them, not their values. A line that begins with
**Hint** is meant for your mistake: a known wrong answer gives exactly what yours gives on every case. **Perhaps** is
a guess: a known wrong answer agrees with yours on some of the failing cases only.

Five helpers go with it. `hint()` shows the next general hint for the exercise you checked last. `solution()` shows
an answer once you have passed, or after three tries. `reset(...)` puts the original stub into a new cell and leaves
yours alone. `progress()` shows where you stand; it is kept on disk and survives a restart. `use("name")` gives
**your own** function where the very version in this notebook has passed, and the course's otherwise: it tells you
which. So a later cell always works, and the more you write, the more of the course runs on your code.

## Your first check

How many bytes does a tensor take? A *tensor* is an array of numbers of one type, its *dtype*. float32 spends 4
bytes on each number, bfloat16 and float16 spend 2, int8 and uint8 spend 1. Every memory estimate in this course
starts here.

Do it in three steps, to see three statuses:

1. Run both cells below as they are. The check says `todo`.
2. Be wrong on purpose: let the function return `tensor.numel()`, the number of values. Run both cells again, and
   read what the check says. Try `hint()` in a new cell.
3. Now do what the docstring asks.
"""

# %% exercise="tensor_bytes"

# %% [markdown]
r"""
### The same number from the library

Sum it over the model and you know what the weights cost. **Predict before you run:** 134,515,008 parameters, and
most machines load them in bfloat16. How many megabytes? (One megabyte, MB, is 10^6 bytes; one mebibyte, MiB, is
2^20.)
"""

# %%
bytes_of = use("tensor_bytes")
weights_bytes = sum(bytes_of(parameter) for parameter in model.parameters())
parameter_count = sum(parameter.numel() for parameter in model.parameters())
print(f"{parameter_count:,} parameters in {next(model.parameters()).dtype}: {weights_bytes:,} bytes")
print(f"        = {weights_bytes / 1e6:.1f} MB = {weights_bytes / 2**20:.1f} MiB")
print(f"transformers says {model.get_memory_footprint():,} bytes, buffers included")

# %% [markdown]
r"""
Training needs much more than the weights: a gradient and two running averages for every parameter that learns, and
the values kept for the backward pass. That is why the *method* matters as much as the model:

- **Full fine-tuning** changes every weight. With the Adam optimizer in float32 that is 16 bytes for each parameter:
  weight, gradient and two averages of 4 bytes each.
- **LoRA** (L07) freezes the weights and trains small matrices beside them: a few percent of the parameters of
  a model as small as this one (135M), under one percent of a large one.
- **QLoRA** (L09) does the same on weights stored in 4 bits.

## What this machine can do

`course doctor`, in a terminal, prints this table. Every row is found by trying, not by looking up a name: the row
about bitsandbytes, for example, quantises a small matrix.
"""

# %%
from course.doctor import examine, show_findings

show_findings(examine())

# %% [markdown]
r"""
When a run fails on somebody else's machine, a report like this is the first thing to ask for. Write your own, small
one. Three sources are enough: `torch.cuda` for the GPU, `psutil` for the computer's memory, `importlib.metadata`
for versions. Besides `torch`, import what you need at the top of your own cell.

You have one machine, but your function must work on others. The check therefore *pretends*: it replaces the
functions that look at the hardware and runs yours on a laptop, on a recent GPU and on an older one. That is how
code for machines you do not have is tested on the job as well.
"""

# %% exercise="env_report"

# %%
report = use("env_report")(["torch", "transformers", "peft", "bitsandbytes", "deepspeed"])
for key, value in report.items():
    print(f"{key:13} {value}")

# %% [markdown]
r"""
## Which model, which method, which dtype?

A *memory rule* answers all three. The course estimates, for each model and method, the bytes that training needs:
weights, plus adapter with its gradients and optimizer state, plus activations (the values kept for the backward
pass), plus a reserve (`course/memory_rule.py`; you write your own estimator in L09). That gives a table of training
setups, each with the memory it asks for, and the rule is simple: of the rows that fit, take the most able one.

About dtypes: **float32** has 8 exponent bits and 23 for precision. **bfloat16** keeps the 8 exponent bits and only
7 for precision, so it reaches as far and needs half the memory. **float16** has 5 and 10: more precise than
bfloat16, but its largest number is 65,504, and training in it needs loss scaling so that gradients neither overflow
nor vanish. (These are stored bits. Every number also has a leading 1 that is implied, so bfloat16 has 8 significant
bits.)
"""

# %%
from course.device import CUDA_BY_MEMORY, detect_device

kind, free_bytes, bf16 = detect_device()
_, axes = plt.subplots(figsize=(8, 3.2), facecolor="white")
labels = [f"{row.model.split('/')[-1]}, {row.method}" for row in CUDA_BY_MEMORY]
needed_gib = [row.minimum_memory_bytes / 2**30 for row in CUDA_BY_MEMORY]
bars = axes.barh(labels, needed_gib, color="#3367d6")
axes.bar_label(bars, fmt="%.1f", padding=3)
axes.axvline(free_bytes / 2**30, color="#d93025", label=f"free on this machine's {kind}: {free_bytes / 2**30:.1f} GiB")
axes.set_xlabel("GPU memory asked for (GiB)")
axes.set_title("What fits on which GPU (a CPU always trains the 135M model)", fontsize=10)
axes.spines[["top", "right"]].set_visible(False)
axes.margins(x=0.08)
axes.legend(loc="upper right")
plt.tight_layout()
plt.show()

# %% [markdown]
r"""
**Predict before you run.** You rent a GPU with 24 GB, of which 22 GiB are free. Which row is it? And on a T4 (16
GB, of which 15 GiB are free), which has no bfloat16 in hardware: which model, and in which dtype?
"""

# %% exercise="choose_method"

# %%
from dataclasses import asdict

from course.device import CPU, CPU_SMALL, CUDA_SMALL, choose_profile

table = [asdict(profile) for profile in (CPU, CPU_SMALL, CUDA_SMALL, *CUDA_BY_MEMORY)]
choose = use("choose_method")
rented = (
    ("24 GB GPU", "cuda", 22, True),
    ("T4, 16 GB", "cuda", 15, False),
    ("80 GB GPU", "cuda", 78, True),
    ("a CPU", "cpu", 8, True),
)
for name, device, free_gib, has_bf16 in rented:
    mine = choose(device, free_gib * 2**30, has_bf16, table)
    library = choose_profile(device, free_gib * 2**30, has_bf16)
    agrees = mine == {"model": library.model, "method": library.method, "dtype": library.dtype}
    print(f"{name:10} {mine['model']:22} {mine['method']:6} {mine['dtype']:9} same as the course: {agrees}")

# %% [markdown]
r"""
## Twice the same

Fine-tuning draws random numbers all the time: initial adapter weights, dropout, the order of the rows, data
augmentation. They do not come from one place:

```
   random.seed ─────────► random.random()       your own Python code, some augmentation libraries
   np.random.seed ──────► np.random.normal()    NumPy code, augmentation
   torch.manual_seed ───► torch.rand()          initial weights, dropout (one generator on each device)
   generator= ──────────► DataLoader            the order of the rows
   worker_init_fn= ─────► inside each worker    random and NumPy there: every worker is a process of its own
```

And with every seed set, a GPU may still add numbers in another order on each run, which changes the last bits;
PyTorch can be asked for *deterministic algorithms* instead. On an NVIDIA GPU matrix products then also need the
environment variable `CUBLAS_WORKSPACE_CONFIG=:4096:8`, set before the program starts; PyTorch warns when it is missing.

### Broken code

Somebody wrote the training below and says: "I set the seed, and still get another curve every time." Run it, and
look at both curves. Which line draws from a generator that nobody seeded?
"""

# %%
from torch.utils.data import DataLoader, TensorDataset


def seed_torch(seed: int) -> tuple[None, None]:
    """What the colleague wrote."""
    torch.manual_seed(seed)
    return None, None


def train_once(make_repeatable, seed: int) -> tuple[list[float], Tensor]:
    """(loss of each step, all weights at the end) of a small network that learns sin(x) from noisy inputs."""
    generator, seed_worker = make_repeatable(seed)
    x = torch.linspace(-3, 3, 256).unsqueeze(1)
    rows = TensorDataset(x, x.sin())
    loader = DataLoader(rows, batch_size=32, shuffle=True, generator=generator, worker_init_fn=seed_worker)
    network = torch.nn.Sequential(
        torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Dropout(0.1), torch.nn.Linear(32, 1)
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.02)
    losses = []
    for _ in range(5):
        for inputs, targets in loader:
            noise = torch.from_numpy(np.random.normal(scale=0.3, size=inputs.shape)).float()
            loss = (network(inputs + noise) - targets).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses, torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def compare_two_runs(make_repeatable, title: str) -> None:
    """Train twice with one seed, plot both loss curves and say whether the weights are equal to the last bit."""
    (first_losses, first), (second_losses, second) = (train_once(make_repeatable, seed=17) for _ in range(2))
    _, axes = plt.subplots(figsize=(8, 2.6), facecolor="white")
    axes.plot(first_losses, color="#3367d6", lw=3, label="first run")
    axes.plot(second_losses, color="#d93025", lw=1.2, ls="--", label="second run, same seed")
    axes.set(xlabel="step", ylabel="loss", title=title)
    axes.legend()
    plt.tight_layout()
    plt.show()
    print(f"weights equal bit for bit: {torch.equal(first, second)}")
    print(f"largest difference of a weight: {(first - second).abs().max():.3g}")


compare_two_runs(seed_torch, "torch.manual_seed only")

# %% [markdown]
r"""
The order of the rows and dropout repeat, since both come from torch here. The noise comes from NumPy, and NumPy's
generator is wherever the last cell left it.

Now write the function that seeds everything; import `random` at the top of your own cell.

One part needs care: the DataLoader's *workers*, processes that prepare batches in the background. When every worker
seeds itself with the same number, four workers give four copies of the same "random" noise; when the seed depends
on the worker alone, every epoch repeats the noise of the epoch before. No error message ever points at either.
Pärnamaa (2021, *Using PyTorch + NumPy? You're making a mistake*) found such repeats in over 95 % of the public
repositories he analysed that draw from NumPy in workers.
"""

# %% exercise="make_deterministic"

# %%
compare_two_runs(use("make_deterministic"), "everything seeded")

# %% [markdown]
r"""
**The number to keep: 0.** With everything seeded, the largest difference between two runs of this demo, which runs
on the CPU, is exactly zero, on the same machine with the same versions. On a GPU it is zero where every operation
has a deterministic form. Across machines or versions PyTorch promises no such thing, which is one more reason for
the machine report above.

## Where you stand
"""

# %%
progress()

# %% [markdown]
r"""
## Interview questions

<details><summary>How much memory do the weights of a 7B model take in float32, bfloat16 and 4 bits?</summary>

Parameters times bytes: 7e9 x 4 = 28 GB, 7e9 x 2 = 14 GB, and 7e9 x 0.5 = 3.5 GB plus the scales, about 0.13 bits a
weight with double quantisation. Then say what it leaves out: gradients, optimizer state, activations, and the KV
cache when serving.
</details>

<details><summary>You have one 24 GB GPU. Which model would you fine-tune, with which method, and why?</summary>

Estimate before naming a model. An 8B model in bfloat16 is 16 GB for the weights alone, so LoRA on it leaves little
room for activations; in 4 bits it is about 6 GB with its embeddings kept in 16 bits, and QLoRA with a few rows of
1,024 tokens and checkpointing fits. A smaller model in bfloat16 with LoRA is faster if its quality is enough:
measure both on your task.
</details>

<details><summary>bfloat16 or float16 for training?</summary>

bfloat16 where the hardware computes it (NVIDIA Ampere or newer, recent CPUs): it has float32's range, so no loss
scaling. float16 is more precise but overflows at 65,504; it is the choice for older GPUs, with loss scaling.
</details>

<details><summary>Your colleague cannot reproduce your loss curve with the same seed. Where do you look?</summary>

First versions and hardware, since PyTorch promises nothing across them. Then the sources of randomness, one by one:
`random`, NumPy, torch on each device, the loader's generator, its workers, generators that a library owns. Then
kernels that are not deterministic, and the number of workers or GPUs, which changes the order of the data. To find
the first difference, compare the first batch, then the first loss, then the first gradient.
</details>

## What you can now claim

- I work with a grader that tells me which mistake I made, and I know what each status means.
- I can say what a model's weights cost in memory, and choose model, method and dtype for a machine by a rule.
- I can test code for a GPU that I do not have.
- I can make a PyTorch training run repeat bit for bit, loader workers included.

**Next:** L07, LoRA from scratch, where you build the adapter that everything else in fine-tuning rests on.
"""
