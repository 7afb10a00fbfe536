# %% [markdown]
r"""
# Supervised fine-tuning data

**Your time: about 2½ hours. Running every cell on 2 CPU cores: about 5 minutes**, of which more than 4 are two short
training runs.

You will write everything that stands between a file of conversations and a training step: labels, template, batches,
packs, and the cleaning and splitting before them. Each part is compared with the library that production uses. In the
middle of the lesson one model never stops talking, and you will know why. Stuck on an exercise? `hint()` in a new cell
gives the next hint for the one that you checked last.
"""

# %% [markdown]
r"""
## Why this matters on the job

Training code fails loudly: a wrong shape raises an error. Data code fails quietly. A label in the wrong place, an end
token that has none, two examples that can see each other, a test question that was in the training set: the loss
falls, nothing raises, and the model is worse, or only looks good. Most "the model does not learn" and "the model never
stops" reports end in the few lines between dataset and model, which is why interviewers like to ask about them: they
show who has looked at a batch.
"""

# %%
import hashlib
import json
import os
import random
import re
import time
import unicodedata
import warnings

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from course.base_model import load_base_model
from course.device import BUNDLED_MODEL, device_profile
from course.lessons.l05_data.hashing import shingle_hash
from course.quiet_libraries import quiet_libraries
from course.sql import load_examples, to_messages
from grader import check, hint, progress, reset, solution, use

plt.rcParams.update({"figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white"})
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3, "figure.dpi": 90})
INK = {"prompt": "#dfe3e8", "answer": "#ffc078", "blue": "#1971c2", "orange": "#d9480f"}

# %% [markdown]
r"""
## What the model is given

**Supervised fine-tuning** (SFT) is next-token training on conversations that end the way you want. A conversation is a
list of **messages**, each with a **role** (system, user, assistant) and a content. The **chat template**, a small
program that travels with the tokenizer, renders the list as one text. The text becomes token ids, and a
**label** stands beside each id: the id itself where the model is to learn it, -100 where the loss looks away.

The data of this lesson is the course's own: a question about a small database, answered with SQL.
"""

# %%
if device_profile().model != BUNDLED_MODEL:  # this lesson studies SmolLM2's own template and tokens
    for name in ("COURSE_MODEL", "COURSE_PROFILE"):
        os.environ.pop(name, None)
model, tokenizer = load_base_model()
examples = load_examples("train")
chats = [to_messages(example) for example in examples]
example_chat = [
    {"role": "system", "content": "SQLite"},
    {"role": "user", "content": "rooms(name, floor)\nHow many rooms?"},
    {"role": "assistant", "content": "SELECT COUNT(*) FROM rooms"},
    {"role": "user", "content": "Only the first floor."},
    {"role": "assistant", "content": "SELECT COUNT(*) FROM rooms WHERE floor = 1"},
]
print(tokenizer.apply_chat_template(example_chat, tokenize=False))
print("end token:", tokenizer.eos_token, tokenizer.eos_token_id, "  padding token:", tokenizer.pad_token)

# %% [markdown]
r"""
Look at the last line of the output: **the token that ends a turn is also the one that fills up batches**. Many models
are shipped like that. Remember it; it comes back.

## Predict before you run: how much of a row is learned?

The model should learn to answer, not to ask, so only the assistant's tokens get labels. **Write down your guess: of all
tokens in the course's 3,600 training rows, which share is labelled?** Your first exercise finds out.

An answer begins after its **header** (`<|im_start|>assistant` and a newline, which the prompt ends with when the model
is asked) and ends with its **end token**, which is part of it: that is how a model says that it is done.
"""

# %% exercise="assistant_labels"

# %%
assistant_labels = use("assistant_labels")
header = tokenizer("<|im_start|>assistant\n")["input_ids"]


def labelled(messages: list[dict[str, str]]) -> dict[str, list[int]]:
    """A chat as a training row: ids and labels."""
    ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    return {"input_ids": ids, "labels": assistant_labels(ids, header, tokenizer.eos_token_id)}


def draw_tokens(row: dict[str, list[int]], title: str, width: int = 92) -> None:
    """The row's tokens as boxes, line by line; those with a label are coloured."""
    _, axes = plt.subplots(figsize=(9.5, 2.6))
    left, line = 0, 0
    for token, label in zip(row["input_ids"], row["labels"], strict=True):
        text = tokenizer.decode([token]).replace("\n", "↵").replace(" ", "·")
        if left + len(text) + 1 > width:
            left, line = 0, line + 1
        colour = INK["prompt"] if label == -100 else INK["answer"]
        axes.add_patch(plt.Rectangle((left, -line - 0.8), len(text) + 0.7, 0.75, color=colour))
        axes.text(left + 0.35, -line - 0.42, text, family="monospace", fontsize=8.3, va="center", color="black")
        left += len(text) + 1
    axes.set(xlim=(0, width), ylim=(-line - 1, 0.2))
    axes.axis("off")
    axes.set_title(title, fontsize=10, color="black", loc="left")
    plt.show()


draw_tokens(labelled(example_chat), "orange: labelled. Everything else is context only (↵ newline, · space)")
rows = [labelled(messages) for messages in tqdm(chats, desc="labels", unit="row")]
all_tokens = sum(len(row["input_ids"]) for row in rows)
answer_tokens = sum(label != -100 for row in rows for label in row["labels"])
print(f"{all_tokens:,} tokens in {len(rows):,} rows, {answer_tokens:,} labelled: {answer_tokens / all_tokens:.0%}")

# %% [markdown]
r"""
27 % of the tokens are labelled. The rest is read and not learned: the model need not become good at writing
questions. Two more things to take from the picture: the end token after each answer is orange, and the newline behind
it is grey. Generation stops at the end token, so that newline is never asked for.

Labels stand **at their own token**. The loss compares what the model says at one place with the label of the
next place, and the model class in transformers does that shift by itself. Whoever shifts in the data too asks each
token for the one after the next.

## The same by template

Your function searches for tokens. transformers can do it in another way, which also works where the same tokens could
mean several things: the **template itself marks** what the assistant wrote. In Jinja, the template language, the
markers are a block, `{% generation %}` ... `{% endgeneration %}`, that writes nothing and is noted down. Most templates
on the hub lack them, SmolLM2's too.
"""

# %%
print(tokenizer.chat_template)
with quiet_libraries():
    from trl.chat_template_utils import get_training_chat_template
try:
    get_training_chat_template(tokenizer)
except ValueError as error:
    print("\ntrl:", str(error)[:160])

# %% [markdown]
r"""
trl ships marked templates for the well-known families, and for this model it has none: you write it. Jinja in one
minute: `{{ ... }}` writes an expression, `{% ... %}` is a statement (`for`, `if`, `else`, `endif`), texts are joined
with `+`, `message['role']` reads a message's role and `==` compares it, and `loop.first` is true in the first round.
Whatever stands outside the braces is written as it is, with one trap: transformers lets Jinja drop a newline right
behind a `{% ... %}`, and the blanks before one. A newline that counts belongs into an expression: `{{ '\n' }}`.

The model has seen one text format only, so the new template must write **exactly** the old text.
"""

# %% exercise="training_template"

# %%
training_template = use("training_template")
same_text, same_labels = 0, 0
for messages, row in tqdm(list(zip(chats, rows, strict=True))[:1000], desc="comparing", unit="row"):
    marked = tokenizer.apply_chat_template(
        messages, chat_template=training_template(), return_dict=True, return_assistant_tokens_mask=True
    )
    same_text += marked["input_ids"] == row["input_ids"]
    by_template = [i if mark else -100 for i, mark in zip(marked["input_ids"], marked["assistant_masks"], strict=True)]
    same_labels += by_template == row["labels"]
print(f"of 1,000 real rows, same tokens: {same_text}, same labels by template and by search: {same_labels}")
assert same_text == same_labels == 1000, "your labels and your template disagree on the real rows"

# %% [markdown]
r"""
Two independent ways, the same labels on every row: yours, and the ones that transformers reads off your template. trl
asks no more than that: with `tokenizer.chat_template = training_template()` set before its trainer is built,
`SFTConfig(assistant_only_loss=True)` finds the markers and no longer looks for a template of its own.

## Broken code: the collator

A training step takes several rows at once, and a tensor is a rectangle, so short rows are **padded**. What does it is
called a **collator**. The **attention mask** says which places are real. The collator below is what many scripts do,
and what `DataCollatorForLanguageModeling(mlm=False)` in transformers does to labels. It raises nothing. For this model
it is wrong.
"""


# %%
def broken_collator(rows: list[dict[str, list[int]]], pad_id: int) -> dict[str, Tensor]:
    """Pads rows. Or so it says."""
    sequences = [torch.tensor(row["input_ids"]) for row in rows]
    ids = nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=pad_id)
    hidden = ids == pad_id
    return {"input_ids": ids, "attention_mask": (~hidden).long(), "labels": ids.masked_fill(hidden, -100)}


broken = broken_collator(rows[:2], tokenizer.pad_token_id)
print("ids:   ", broken["input_ids"][0, -8:].tolist())
print("mask:  ", broken["attention_mask"][0, -8:].tolist())
print("labels:", broken["labels"][0, -8:].tolist())

# %% [markdown]
r"""
**Find what is wrong before you go on**: there are two faults in what happens to the end token (id 2), and a third in
what is learned of the question. Then write the collator as it should be. Your rows bring ready labels.
"""

# %% exercise="pad_batch"

# %%
pad_batch = use("pad_batch")
with quiet_libraries():
    from transformers import DataCollatorForLanguageModeling

library_collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)


def by_library(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """A batch by the library's default collator, which makes its own labels."""
    return dict(library_collator([{"input_ids": row["input_ids"]} for row in rows]))


def by_you(rows: list[dict[str, list[int]]]) -> dict[str, Tensor]:
    """A batch by your collator."""
    return pad_batch(rows, tokenizer.pad_token_id)


for name, collate in (("library's default", by_library), ("yours", by_you)):
    batch = collate(rows[:64])
    ends = (batch["input_ids"] == tokenizer.eos_token_id) & (batch["labels"] != -100)
    print(
        f"{name}: {int((batch['labels'] != -100).sum()):,} labels in 64 rows, {int(ends.sum())} of them on an end token"
    )

# %% [markdown]
r"""
## A real run with a number to keep

What does that one difference do? Train the same model twice, on the same rows in the same order, with the same
settings: once with the library's default collator, once with your labels and your collator. Then ask 24 hand-written
questions and count **how many answers end by themselves** within 48 tokens (the right queries have at most 21).

**Predict three numbers: before any training, after the library's collator, after yours.** And one more: will the
training loss of the first run look suspicious?
"""

# %%
from course.training import TrainingConfig, add_adapter

STEPS, ROWS_PER_STEP, QUESTIONS, NEW_TOKENS = 60, 4, 24, 48
if os.environ.get("COURSE_SMOKE") == "1":
    STEPS, ROWS_PER_STEP, QUESTIONS, NEW_TOKENS = 2, 2, 4, 6
    print("COURSE_SMOKE=1: A FEW STEPS ONLY. The numbers below mean nothing; this tests the cells.")
short_rows = [row for row in rows if len(row["input_ids"]) <= 60]
train_rows = random.Random(0).sample(short_rows, STEPS * ROWS_PER_STEP)
short_questions = sorted(load_examples("seen"), key=lambda example: len(example.schema_text))
questions = short_questions[:QUESTIONS]
print(f"{len(train_rows)} training rows of at most 60 tokens, {len(questions)} questions")
print(f"longest right query: {max(len(tokenizer(q.sql)['input_ids']) for q in questions)} tokens")


def train(collate, learning_rate: float = 1e-3) -> tuple[nn.Module, list[float]]:
    """A fresh model with LoRA adapters, trained on train_rows; returns it with the loss of each step."""
    with quiet_libraries(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        learner = add_adapter(load_base_model()[0], TrainingConfig(rank=16, alpha=32))
    learning = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=learning_rate, weight_decay=0.0)
    losses = []
    learner.train()
    for step in (bar := tqdm(range(STEPS), desc="training", unit="step")):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 4) * (1 - step / STEPS)
        batch = collate(train_rows[step * ROWS_PER_STEP : (step + 1) * ROWS_PER_STEP])
        loss = learner(**{key: value.to(learner.device) for key, value in batch.items()}).loss
        loss.backward()
        nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        bar.set_postfix(loss=f"{losses[-1]:.3f}")
    return learner.eval(), losses


def ask(learner: nn.Module) -> tuple[list[str], list[int], list[bool]]:
    """Greedy answers to the questions, how many tokens each took, and whether it ended by itself."""
    prompts = [
        tokenizer.apply_chat_template(to_messages(q, with_answer=False), tokenize=False, add_generation_prompt=True)
        for q in questions
    ]
    given = tokenizer(prompts, padding=True, padding_side="left", return_tensors="pt").to(learner.device)
    with torch.inference_mode():
        written = learner.generate(**given, max_new_tokens=NEW_TOKENS, do_sample=False)
    new = written[:, given["input_ids"].shape[1] :]
    is_end = new == tokenizer.eos_token_id
    ended = is_end.any(1)
    tokens = torch.where(ended, is_end.int().argmax(1) + 1, NEW_TOKENS)
    return tokenizer.batch_decode(new, skip_special_tokens=True), tokens.tolist(), ended.tolist()


answers_before, tokens_before, ended_before = ask(model)
print(f"before training: {sum(ended_before)} of {len(questions)} answers end by themselves")

# %% [markdown]
r"""
The next cell trains both. On one busy CPU core it took just under five minutes; on two free ones it takes less.
"""

# %%
started = time.perf_counter()
learner, library_losses = train(by_library)
library_answers, library_tokens, library_ended = ask(learner)
learner, your_losses = train(by_you)
your_answers, your_tokens, your_ended = ask(learner)
print(f"{time.perf_counter() - started:.0f} s")
for name, tokens, ended in (
    ("before training", tokens_before, ended_before),
    ("library's default collator", library_tokens, library_ended),
    ("your labels, your collator", your_tokens, your_ended),
):
    print(
        f"{name:27} {sum(ended):2} of {len(ended)} end by themselves, {sum(tokens) / len(tokens):.0f} tokens an answer"
    )

# %%
figure, (left_axes, right_axes) = plt.subplots(1, 2, figsize=(10, 3.2))
left_axes.plot(library_losses, color=INK["orange"], label="library's default")
left_axes.plot(your_losses, color=INK["blue"], label="yours")
left_axes.set(xlabel="step", ylabel="loss per labelled token", title="both losses fall")
left_axes.legend()
names, counts = ["before", "library's default", "yours"], [sum(ended_before), sum(library_ended), sum(your_ended)]
bars = right_axes.bar(names, counts, color=["#9aa5b1", INK["orange"], INK["blue"]])
right_axes.bar_label(bars)
right_axes.set(ylabel=f"answers of {len(questions)}", title="answers that end by themselves")
figure.tight_layout()
plt.show()
for number in range(min(3, len(questions))):
    print(f"\n{questions[number].question}")
    for name, answers in (("library", library_answers), ("yours", your_answers)):
        print(f"  {name:8} {answers[number].strip()[:150]!r}")

# %% [markdown]
r"""
Keep these counts. In our run 9 of 24 answers ended by themselves before training, **0 after the library's collator
and 24 after yours**. Read the library's answers above: the model has learned to write queries, and then it goes on: one
more clause, a semicolon, the same query again. Where a training answer ended, its end token had no label, so all
that was ever learned at such a place, from longer queries, is that something follows. The losses show nothing of it.
The library's is higher only because it counts the questions' tokens too, which are hard to guess. The bill shows it:
48 tokens an answer, the limit, instead of 13.

Is it the end token, or the questions? We trained a third model on whole rows, questions labelled as well, end tokens
kept: 24 of 24 ended by themselves. It is the end token alone.

Three ways out, in the order in which they are usually right: labels that are made before padding (yours); a collator
that pads ready labels (`DataCollatorForSeq2Seq`, or trl's own); a padding token of its own, such as
`<|endoftext|>`. Raising `max_new_tokens`, or cutting answers at the first newline, only hides it.

## Packing

Padding is paid for like any token. **Packing** lays several rows end to end in one, so that hardly any place is empty.
There are two ways. *Wrapped* joins everything and cuts every L tokens, wherever that falls: fine for pre-training on
books, bad for chats, since a cut separates an answer from its question. *Best fit decreasing* keeps every row whole: it
takes the longest row first and puts each into the fullest pack that still has room.

**Predict: when batches of 8 rows are drawn at random from our data and padded to their longest, what share of the
places is padding? And what share if the rows are packed into 512 places by best fit?**
"""

# %% exercise="pack_rows"

# %%
pack_rows = use("pack_rows")
LENGTH = 512
shuffled = random.Random(0).sample(rows, len(rows))
batches = [shuffled[start : start + 8] for start in range(0, len(rows), 8)]
padded_places = sum(len(batch) * max(len(row["input_ids"]) for row in batch) for batch in batches)
started = time.perf_counter()
packs = pack_rows(shuffled[:1000], LENGTH, "bfd")
seconds = time.perf_counter() - started
packed_tokens = sum(len(pack["input_ids"]) for pack in packs)
print(f"batches of 8, padded: {1 - all_tokens / padded_places:.0%} of the places are padding")
print(f"packed, best fit: {1 - packed_tokens / (len(packs) * LENGTH):.1%} ({len(packs)} packs, {seconds:.2f} s)")

with quiet_libraries():
    from datasets import Dataset, disable_progress_bars
    from trl import pack_dataset

disable_progress_bars()
theirs = pack_dataset(Dataset.from_list(shuffled[:1000]), LENGTH, "bfd").to_list()
assert packs == theirs, "your packs differ from trl's"
print(f"trl.pack_dataset: {len(theirs)} packs, the same as yours, row for row")


# %%
def draw_rows(axes, lengths: list[list[int]], width: int, title: str) -> None:
    """Each inner list as one line of blocks; what is left of the width is padding."""
    for line, sizes in enumerate(lengths):
        left = 0
        for number, size in enumerate(sizes):
            axes.barh(line, size, left=left, height=0.8, color=plt.cm.tab20(number % 20), edgecolor="white")
            left += size
        axes.barh(line, width - left, left=left, height=0.8, color="#f1f3f5", hatch="///", edgecolor="#ced4da")
    axes.set(title=title, xlabel="place", xlim=(0, width), yticks=[])
    axes.invert_yaxis()
    axes.grid(False)


sizes = [len(row["input_ids"]) for row in shuffled[:24]]
small_packs = [pack["seq_lengths"] for pack in pack_rows(shuffled[:24], 256, "bfd")]
figure, (left_axes, right_axes) = plt.subplots(1, 2, figsize=(10, 3.4), gridspec_kw={"width_ratios": [1, 2]})
draw_rows(
    left_axes, [[size] for size in sizes], max(sizes), f"24 rows padded to {max(sizes)}: {24 * max(sizes)} places"
)
places = len(small_packs) * 256
draw_rows(right_axes, small_packs, 256, f"the same rows packed into 256: {places} places (hatched: padding)")
figure.tight_layout()
plt.show()

# %% [markdown]
r"""
In our data the rows are of like length, and random batches of 8 waste 24 % of their places; the more uneven the
lengths, the more. Packed, 2.4 % are empty.

## Packed rows must not see each other

Attention looks at everything to the left. In a pack that means the rows before. Two things keep rows apart:

- **position ids** that start at 0 again with each row, as if it stood alone;
- an **attention mask** in blocks along the diagonal: a place looks only at earlier places *of its own row*.

If that is right, packing changes nothing: each row's outputs are those it has alone. That is the whole test, and the
check runs it on two small models. One has rotary positions (RoPE, as in Llama), in which only distances
between tokens count; the other has learned positions (GPT-2).
"""

# %% exercise="packed_mask"

# %%
packed_mask = use("packed_mask")
three = rows[0:12:4]
lengths = [len(row["input_ids"]) for row in three]
position_ids, mask = packed_mask([lengths], sum(lengths))
figure, axes = plt.subplots(figsize=(4.4, 4.2))
axes.imshow(mask[0, 0].cpu(), cmap="Blues", interpolation="nearest")
axes.set(xlabel="key: the place that is looked at", ylabel="query: the place that looks")
axes.set_title(f"three rows of {', '.join(map(str, lengths))} tokens in one pack", fontsize=10)
axes.grid(False)
plt.show()

# %% [markdown]
r"""
Now on the real model: three rows about three databases in one pack. **Predict: for how many of the second and third
row's tokens does the model's first choice change if the rows can see each other?**
"""

# %%
ids = torch.tensor([[token for row in three for token in row["input_ids"]]], device=model.device)
causal = torch.ones_like(mask).tril()
ways = {
    "your mask, your positions": {"attention_mask": mask, "position_ids": position_ids},
    "transformers, from your positions alone": {"position_ids": position_ids},
    "plain causal mask, positions run on": {"attention_mask": causal},
}
with torch.no_grad():
    alone = torch.cat([model(torch.tensor([row["input_ids"]], device=model.device)).logits[0] for row in three])
    for name, given in ways.items():
        inputs = {key: value.to(model.device) for key, value in given.items()}
        logits = model(ids, use_cache=False, **inputs).logits[0]
        changed = (logits.argmax(-1) != alone.argmax(-1))[lengths[0] :]
        gap = (logits - alone).abs().max().item()
        print(f"{name:40} largest change {gap:8.2g}, first choice changed: {int(changed.sum())} of {len(changed)}")

# %% [markdown]
r"""
With your mask, or with the one that transformers derives from your positions, what is left is rounding. Without,
46 of 152 first choices change: the model reads table names of another database. (Where rows are related this
even lowers the training loss, by looking things up that will not be there later.)

One more place to look at is the border itself: the last token of a row predicts the first of the next. Your labels put
-100 on every row's first token, so nothing is learned there. If you label whole rows, mask the first label of each.

## Before all this: near-duplicates

A row that occurs twenty times is learned twenty times, and a copy that lands in the test set is a free point. Exact
copies are easy to find; "How many rooms are there?" and "how many rooms are there, in all" are not. The usual measure
is the **Jaccard similarity** of two sets: how much they share, divided by how much they hold together. The sets are
the **shingles** of a text: its runs of three words.

Comparing all sets with all others is slow. **MinHash** keeps a *signature* of K numbers for each text: put all
possible shingles in a random order and note which of the text's comes first; do that for K random orders. In a truly
random order, the probability that two texts have the same first one is exactly their Jaccard similarity, so the share
of equal numbers estimates it. A formula comes close enough to random: shingle $s$ has the place $(a \cdot
\text{hash}(s) + b) \bmod 2^{32}$, with other $a$ and $b$ for each order, and $a$ odd, so that each place is taken by
one hash.

**Predict: with K = 16 numbers, how far is the estimate off typically, when the truth is 0.5? And with 256?**
"""

# %% exercise="near_duplicates"

# %%
near_duplicates = use("near_duplicates")
draw = random.Random(0)


def orders(count: int) -> tuple[list[int], list[int]]:
    """The a and b of `count` random orders."""
    return [2 * draw.randrange(2**31) + 1 for _ in range(count)], [draw.randrange(2**32) for _ in range(count)]


base_words = [f"word{number}" for number in range(60)]
texts, truth = [" ".join(base_words)], [1.0]
for changes in range(1, 40):  # from almost the same to hardly alike
    places = set(draw.sample(range(60), changes))
    texts.append(
        " ".join(f"new{changes}_{place}" if place in places else word for place, word in enumerate(base_words))
    )
    untouched = sum(not places & {start, start + 1, start + 2} for start in range(58))
    truth.append(untouched / (2 * 58 - untouched))
figure, axes = plt.subplots(figsize=(5.6, 4))
for count, colour in ((16, INK["orange"]), (256, INK["blue"])):
    estimates = near_duplicates(texts, *orders(count), 1.0)[0][0].tolist()
    off = sum((one - other) ** 2 for one, other in zip(estimates, truth, strict=True)) / len(truth)
    axes.plot(truth, estimates, "o", markersize=4, color=colour, label=f"K = {count}: off by {off**0.5:.3f} (rms)")
axes.plot([0, 1], [0, 1], "k--", linewidth=1)
axes.set(xlabel="exact Jaccard similarity", ylabel="estimate")
axes.legend()
plt.show()

# %% [markdown]
r"""
At $J = 0.5$ the typical error is $\sqrt{J (1 - J) / K}$: 0.125 with 16 numbers, 0.031 with 256. Over all the points of
the picture it was 0.107 and 0.025. Sixteen times the numbers, a quarter of the error.

Now on real questions. Forty near-copies, as they creep in when data is collected twice, are put behind 600 of the
course's own questions: small letters, no question mark, a "please" in front.

**Predict: how many of the 40 are found at a threshold of 0.6? And how many of the 600 are dropped as well?**
"""

# %%
own = [example.question for example in examples[:600]]
copied = [f"please {question.lower().rstrip('?. ')}" for question in own[::15]]
similarity, kept = near_duplicates(own + copied, *orders(64), 0.6)
dropped = sorted(set(range(len(own + copied))) - set(kept))
print(f"found: {sum(number >= len(own) for number in dropped)} of {len(copied)} near-copies")
print(f"dropped of the {len(own)} others: {sum(number < len(own) for number in dropped)}")
for number in [number for number in dropped if number < len(own)][:4]:
    double = max((other for other in kept if other < number), key=lambda other: similarity[number, other])
    print(f"  {similarity[number, double]:.2f}  {own[number]!r}  like  {own[double]!r}")

# %% [markdown]
r"""
In our run all 40 are found, and one question too many: "What's the total count of homes?" is taken for a copy of
"What's the total count of teams?". Of their six different shingles four are shared, and the one word that differs is
the one that counts: they are asked of different databases and have different answers. Read the pairs before you
delete anything. What counts as a text (the question? the question with its tables and its answer?) is your decision,
and it matters more than the threshold.

The cost: all pairs of ten million signatures are still $5 \cdot 10^{13}$. **Locality-sensitive hashing** cuts each
signature into bands and compares only texts that agree on a whole band (`datasketch.MinHashLSH`).

## Split by group

Rows come in families: all questions about one database, all messages of one customer, all pages of one book. If a
family stands on both sides of the split, the test asks for what was memorised. Split by row and you measure memory;
split by **group** and you measure what the job needs: the next customer.

**Predict: hold out a tenth of our 3,600 rows at random. Of the held-out rows, what share is about a database that
training has seen too?**
"""

# %%
held = set(random.Random(0).sample(range(len(examples)), len(examples) // 10))
trained_on = {example.schema_text for number, example in enumerate(examples) if number not in held}
leaked = sum(examples[number].schema_text in trained_on for number in held)
print(
    f"split by row: {leaked} of {len(held)} held-out rows ({leaked / len(held):.0%}) are about a database of training"
)

# %% [markdown]
r"""
Write the whole gate: clean, drop copies, split by group. The split is by a hash of the group's name instead of a random
draw, so that tomorrow's new rows and groups leave every old row where it is.
"""

# %% exercise="clean_and_split"

# %%
clean_and_split = use("clean_and_split")
table = [{"group": e.schema_text, "question": e.question, "answer": e.sql} for e in examples]
untidy = [{**row, "group": "another " + row["group"], "question": f" {row['question'].upper()}"} for row in table[:50]]
table += [*untidy, {"group": "gym", "question": "How old is Pim?", "answer": " \n"}]
splits = clean_and_split(table, 0.1, "first split")
groups = {name: {row["group"] for row in part} for name, part in splits.items()}
print(f"{len(table)} rows in, {sum(map(len, splits.values()))} after cleaning and dropping copies")
for name, part in splits.items():
    print(f"{name}: {len(part)} rows of {len(groups[name])} databases")
print(f"databases in both: {len(groups['train'] & groups['test'])}")
with_one_more = clean_and_split(
    [*table, {"group": "new(x)", "question": "What?", "answer": "SELECT x FROM new"}], 0.1, "first split"
)
print(
    "test rows that moved when a group was added:", len([r for r in splits["test"] if r not in with_one_more["test"]])
)

# %% [markdown]
r"""
Split by row, **every** held-out row is about a database that training has seen. Split by group, none is. Of the 51
untidy rows that were put in, all are gone: 50 copies in capital letters under another group's name, and a blank
answer. Note also that a tenth of the *groups* need not be a tenth of the *rows* (here 308 of 3,600), because groups
differ in size. If the numbers must come out even, group sizes have to enter the draw, and stability is lost.

L09 trains on this data and tests on databases that were held out, next to ones that were not: the difference is what a
split by row would have hidden.

## Extension: a gate with reasons, and a card

Data arrives from people and programs, and one bad line can stop a run at night or, worse, not stop it. A **validator**
reads every row before training and refuses the bad ones *with a reason that says what to mend*. A **data card**
describes what passed: how many rows, and a checksum that proves months later that the file is still the one that was
trained on.
"""

# %% exercise="validate_rows"

# %%
validate_rows = use("validate_rows")
lines = [json.dumps({"messages": messages}) for messages in chats]
lines[41] = lines[41][:-3]
lines[99] = json.dumps({"messages": chats[99][:-1]})
lines[7] = json.dumps({"messages": [chats[7][0], chats[7][2]]})
report = validate_rows(lines)
for number, reason in report["refused"]:
    print(f"line {number}: {reason}")
print(json.dumps(report["card"], indent=1))

# %% [markdown]
r"""
## Interview questions

<details><summary>Which tokens should a fine-tuning loss count?</summary>

The assistant's: content and end token, of every answer in the conversation. Not the system and user turns (the model
need not produce them, and they are most of the tokens), not the headers (the prompt supplies them), not what the
template writes after the end token. Loss on everything also works with much data; it spends capacity on questions.
</details>

<details><summary>How do you get assistant-only loss for a model whose template has no generation markers?</summary>

Write a training template that renders the same text with the markers around content and end token, prove the text
equal on real rows, and let the library read the mask off it. Or find the answers by their header and end tokens. I
have done both and compared them.
</details>

<details><summary>Your fine-tuned model never stops generating. What do you look at?</summary>

One batch. Is there a label on the end token, in every row? The usual cause: the pad token equals the end token, and
the collator hides labels by id. Next: a template without an end token, rows cut off at the maximum length, a generation
config with another end token than the one trained. The loss will not tell: it looks normal.
</details>

<details><summary>What does packing save, and what must change so that it changes nothing else?</summary>

It saves padding, so about as much time as there was padding. Position ids restart with each row, attention is limited
to the row (block-diagonal, or the rows' lengths handed to a FlashAttention kernel), the first label of each row is
hidden. Test: each row's logits equal those it has alone. Also, a step now holds more examples, so the learning
rate may need another look.
</details>

<details><summary>What goes wrong when packed examples can see each other?</summary>

The model can copy from a neighbour, learns to use a context that will not be there, and the training loss is too low or
too high for the wrong reason. It is a small effect on long unrelated texts and a large one on short related rows. The
proof that mine cannot: every row's logits in the pack equal those it has alone.
</details>

<details><summary>How do you find near-duplicates in ten million rows, and why before the split?</summary>

MinHash signatures of word or character shingles, locality-sensitive hashing for candidates, a threshold checked by
reading pairs. Before the split, because otherwise a near-copy of a test row can stay in training.
</details>

<details><summary>How did you split, and what would have leaked?</summary>

By group, with a hash of the group's name and a salt, so that the split is stable when data is added. By row, every
test row's group was one that training had seen: the score would have measured memory.
</details>

<details><summary>How do you show that the training data was what you think it was?</summary>

A validator's report, a data card with counts and a checksum that the run logs, and a few decoded rows with their labels
in colour. If nobody has looked at a decoded batch, that is the first thing to do.
</details>
"""

# %%
progress()

# %% [markdown]
r"""
## What you can now claim

- "I wrote the data side of supervised fine-tuning by hand: assistant-only labels, training template, collator, packing,
  masks. Labels equal transformers' on 1,000 real rows, packs equal trl's, and packed logits equal unpacked ones."
- "I can show why a fine-tuned model never stops": put your three counts here.
- "I deduplicate with MinHash and split by group, and can say what a split by row would have leaked": your percentage.

Back: *L01, tokens and chat text*. Forward: *L07, LoRA from scratch*, and *L09, QLoRA for real*, which trains on this
data and tests on databases that it never showed.
"""
