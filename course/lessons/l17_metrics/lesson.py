# %% [markdown]
r"""
# Metrics and the harness

*About 190 minutes for you, 155 of them for the exercises. The notebook itself runs for about 20 minutes on two CPU
cores without AVX-512, most of it the real run in section 8; 13 more where it has to train a model first.*

You will write the metrics that every model card quotes, and see each of them equal the library that made the
number. Then you put your own test set into **lm-eval**, the harness behind most published numbers (Gao et al.;
Biderman et al. 2024, arXiv:2405.14782), and measure your fine-tuned model of *QLoRA, for real* before and after:
did it learn what you taught it, and what did it forget?

**Why this matters on the job.** "Our model scores 62." With how many shots, by which normalisation, with the chat
template or without, cut at which newline? Each of these moves a score by more than most fine-tunes do. Whoever is
asked to compare two models has to know what the number is made of, and whoever ships a model has to be able to make
it again.

Words used below. **Item**: one question of a test set. **Gold**: its right answer. **Context**: the text that a model
reads; **continuation**: the text whose probability is asked for. **Shot**: a worked example in the context.
**Greedy decoding**: generating by always taking the most probable token. **BOS**: the special token that begins a
text. **Nat**: the unit of a natural logarithm; a log-probability of -1 nat is a probability of 0.37. **Harness**: a
program that asks a model a whole test set, always in the same way, and keeps what came back.
"""

# %%
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch

from course.base_model import load_base_model
from course.device import device_profile
from course.evaluation import evaluate, scored_items
from course.lessons.l17_metrics.run import chosen_plan
from course.quiz import load_quiz
from grader import check, hint, progress, reset, solution, use

plt.rcParams.update({"figure.facecolor": "white", "axes.facecolor": "white", "figure.figsize": (7, 3)})
profile, plan = device_profile(), chosen_plan()
ITEMS, SHOTS = (2, 1) if plan.recipe.smoke else (30, 4)  # of the demos; the real run takes all items
print(f"{profile.name}: {profile.model} in {profile.dtype}; results go to {plan.folder}/")
print(plan.says)
if plan.recipe.smoke:
    print("COURSE_SMOKE=1: A FEW ITEMS ONLY. The numbers below mean nothing; this tests the cells.")

# %% [markdown]
r"""
## 1. Predict before you run

A model answers six questions, and four metrics judge each answer. **Write down, for each row, which metrics give
full marks, and which give nothing.**

| gold | answer |
|---|---|
| the Nile | Nile. |
| Marie Curie | It was Marie Curie, of course |
| 1969 | In 1969 |
| Paris | London |
| red, green and blue | blue, green and red |
| It is not allowed | It is allowed |

**Exact match** (EM) asks whether both are the same after *normalising*: small letters, no punctuation, no articles.
**Token F1** counts words in common, in any order. **ROUGE-L** looks for the longest common subsequence: words in the
same order, gaps allowed. **BLEU** counts runs of one to four words (n-grams), over a whole corpus.

```
target      police  killed  the  gunman            ROUGE-L: order counts, gaps may be
               │       │             │
prediction  police   then  killed   one  gunman    police … killed … gunman: 3 of 4 and 3 of 5
```

## 2. Metrics of texts

Write them, one by one. A check compares yours with the code that published numbers come from: lm-eval's copy of
SQuAD's script, `rouge_score`, `sacrebleu`.
"""

# %% exercise="token_f1"

# %% [markdown]
r"""
The longest common subsequence is a classic of *dynamic programming*: the question is answered for all beginnings of
the two texts, shortest first, and each answer is made from shorter ones that are known by then.
"""

# %% exercise="rouge_l"

# %% [markdown]
r"""
**BLEU by hand.** The model says `the cat sat on the mat`, 6 words; the reference is `the cat sat on the red mat`, 7
words.

| n | n-grams said | of them in the reference | precision |
|---|---|---|---|
| 1 | 6 | 6 | 1 |
| 2 | 5 | 4: all but `the mat` | 0.8 |
| 3 | 4 | 3 | 0.75 |
| 4 | 3 | 2 | 0.667 |

The geometric mean of the four is 0.4 to the power of 1/4, 0.795. Nothing in it notices that a word is missing; for
that there is the **brevity penalty**, exp(1 - 7/6) = 0.846, since the answer is shorter than its reference. BLEU is
100 * 0.846 * 0.795 = 67.3.

And `the the the the`, against the same reference? Each `the` is found there, but counts are **clipped**: the
reference has two, so 2 of 4 match. Over a corpus, both counts of each n and both lengths are summed up before
anything is divided.
"""

# %% exercise="corpus_bleu"

# %% [markdown]
r"""
Now your guesses, by your own functions. (The whole column of BLEU will be 0, and its bars not to be seen. That is no
fault; why, stands below.)
"""

# %%
token_f1, rouge_l, corpus_bleu = use("token_f1"), use("rouge_l"), use("corpus_bleu")
answered = [
    ("the Nile", "Nile."),
    ("Marie Curie", "It was Marie Curie, of course"),
    ("1969", "In 1969"),
    ("Paris", "London"),
    ("red, green and blue", "blue, green and red"),
    ("It is not allowed", "It is allowed"),
]
table = pd.DataFrame(
    [
        (
            gold,
            said,
            *token_f1(said, [gold]).values(),
            rouge_l(gold, said)["fmeasure"],
            corpus_bleu([said], [[gold]]) / 100,
        )
        for gold, said in answered
    ],
    columns=["gold", "answer", "exact match", "F1", "ROUGE-L", "BLEU"],
)
print(table.round(2).to_string(index=False))
axis = table.set_index("answer")[["exact match", "F1", "ROUGE-L", "BLEU"]].plot.barh(figsize=(8, 3.4), width=0.8)
axis.set(title="Four metrics, the same six answers", xlabel="score", ylabel="", xlim=(0, 1.02))
axis.invert_yaxis()
axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
plt.tight_layout()
plt.show()

# %% [markdown]
r"""
Three things to take along.

- The last row is the dangerous one: *the opposite of the truth* gets an F1 of 0.86. Overlap is not meaning.
- Exact match punishes politeness (rows 2 and 3), F1 does not see order (row 5). BLEU without smoothing is 0 where no
  run of four words matches, so for every short text, "Nile." included: it was made for a corpus of long sentences.
- None of the four says whether an SQL query is right. Where an answer can be *executed* or *checked*, do that.
  Section 8 does.

## 3. Scoring without generating: log-likelihood

A multiple-choice question needs no generated text. The model reads the question and is asked, for each choice, how
probable it is as the next words. The choice with the greatest probability counts as the answer.

```
context        Question: Which planet is red? \n Answer :
continuation                                              Mars        log P = -2.1   ← picked
                                                          Venus       log P = -3.7
tokens         x1  x2  x3  ...                        xn  c1  c2
logits at                                             xn  c1          ← one place EARLIER than the token asked for
```

A language model's logits at a place are about the **next** token. So the probability of `c1` is read at `xn`, that of
`c2` at `c1`, and the last continuation token need not be read at all. For the very first token of a text there is no
such place. So where the context is empty, the model is given one token to start from, mostly BOS: the *prefix token*.

Before that, text becomes tokens, and there the first trap is: tokens do not respect the seam between context and
continuation.
"""

# %%
model, tokenizer = load_base_model()
tokenize = lambda text: tokenizer(text, add_special_tokens=False)["input_ids"]  # noqa: E731
for context, continuation in (("Answer:", " Mars"), ("Answer: ", "Mars"), ("It is un", "happy")):
    together, apart = tokenize(context + continuation), tokenize(context) + tokenize(continuation)
    print(f"{context!r} + {continuation!r}")
    print("   together", tokenizer.convert_ids_to_tokens(together))
    print("   apart   ", tokenizer.convert_ids_to_tokens(apart))

# %% [markdown]
r"""
`Ġ` is a space. Encoded together, the space belongs to the word behind it, as in all the text that the model was
trained on. Encoded apart, it stands alone, and the model is asked about a sequence that it has hardly ever seen.
lm-eval therefore moves white space from the end of the context to the continuation, encodes both as one, and cuts
where the context's own tokens end. (The third pair shows the limit of cutting: `Ġunhappy` is one token, as many as
`Ġun`, and nothing is left of the continuation. Cut between words, never inside one.)
"""

# %% exercise="encode_pair"

# %% exercise="loglikelihood"

# %% [markdown]
r"""
**The library, live.** Your two functions on the real model, beside lm-eval's `HFLM`, on the first questions of the
course's dataset `quiz`: 310 questions for testing, four choices each, written for this course.
"""

# %%
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

encode_pair, loglikelihood = use("encode_pair"), use("loglikelihood")
quiz = load_quiz("test")[:ITEMS]


def ask(item) -> str:
    """The question as the harness's task asks it."""
    return f"Question: {item.question}\nAnswer:"


pairs = [(ask(item), f" {choice}") for item in quiz for choice in item.choices]
requests = [encode_pair(context, continuation, tokenize, tokenizer.bos_token_id) for context, continuation in pairs]
started = time.perf_counter()
mine = loglikelihood(model, requests)
print(f"{len(mine)} requests in {time.perf_counter() - started:.0f} s")
few = min(8, len(pairs))
theirs = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1).loglikelihood(
    [Instance("loglikelihood", {}, pair, 0) for pair in pairs[:few]], disable_tqdm=True
)
gap = max(abs(one[0] - other[0]) for one, other in zip(mine[:few], theirs, strict=True))
same = sum(one[1] == other[1] for one, other in zip(mine[:few], theirs, strict=True))
print(f"largest difference {gap:.1e} nats; greedy flags equal: {same} of {few}")

# %%
item = quiz[0]
of_item = requests[: len(item.choices)]
figure, axes = plt.subplots(1, len(item.choices), figsize=(11, 2.8), sharey=True)
for axis, choice, (ids, wanted) in zip(axes, item.choices, of_item, strict=True):
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([ids + wanted[:-1]], device=model.device)).logits[0].float()
    scores = scores.log_softmax(-1)[len(ids) - 1 :].gather(1, torch.tensor(wanted, device=model.device)[:, None])[:, 0]
    names = [name.replace("Ġ", " ") for name in tokenizer.convert_ids_to_tokens(wanted)]
    axis.bar(range(len(names)), scores.cpu(), color="#1f4e79" if choice == item.right else "#9db8d9")
    axis.set_xticks(range(len(names)), names, rotation=60, fontsize=8)
    axis.set_title(f"sum {scores.sum().item():.1f}, {len(choice)} characters", fontsize=9)
axes[0].set_ylabel("log-probability")
figure.suptitle(f"{item.question}  (dark: the right choice)", fontsize=10)
plt.tight_layout()
plt.show()

# %% [markdown]
r"""
Every token costs: each bar points down, so a longer choice starts with a handicap, whether it is right or not.

## 4. acc, acc_norm, acc_bytes

So the bare sum prefers short choices. lm-eval reports up to three accuracies:

- **acc**: the largest sum of log-probabilities wins;
- **acc_norm**: the largest sum *divided by the choice's length* wins;
- **acc_bytes**: the same with the length in bytes of UTF-8.

The length is that of the choice as it stands in the data, without the space before it. Dividing takes the handicap
away. Whether the score rises by that depends on the questions: it falls where the right choices are mostly the short
ones.

Length of what? Not tokens: two models with different tokenizers would be measured with different rulers. Papers,
the harness's own among them, say that acc_norm divides by *bytes*. Its code divides by *characters*, and
`acc_bytes` was added beside it (lm-evaluation-harness, issue 3278). In English they are the same. In Hindi, where a
character takes three bytes, they are not. You write all three.

*Predict:* which is higher for the base model on `quiz`, acc or acc_norm?
"""

# %% exercise="choice_accuracy"

# %%
choice_accuracy = use("choice_accuracy")
sums = [total for total, _ in mine]
scored = [
    {"choices": list(item.choices), "loglikelihoods": sums[4 * place : 4 * place + 4], "gold": item.answer}
    for place, item in enumerate(quiz)
]
mine_accuracy = choice_accuracy(scored)
print(f"your own scorer on {len(quiz)} items:", {name: round(share, 3) for name, share in mine_accuracy.items()})

figure, axis = plt.subplots()
for right, colour in ((False, "#9db8d9"), (True, "#b03a2e")):
    places = [n for n in range(len(sums)) if (quiz[n // 4].answer == n % 4) == right]
    lengths = [len(quiz[n // 4].choices[n % 4]) for n in places]
    axis.scatter(
        lengths, [sums[n] for n in places], s=14, color=colour, label="right choices" if right else "wrong choices"
    )
axis.set(title="Longer choices have smaller sums", xlabel="characters", ylabel="sum of log-probabilities")
axis.legend(fontsize=8)
plt.show()

# %% [markdown]
r"""
<details><summary>What we saw, after you have seen yours</summary>

On the first 30 items acc_norm was higher, 33.3 against 26.7 %. On all 310 it is the other way round: acc 38.1 %,
acc_norm 33.9 % (SmolLM2-135M-Instruct in float32). acc_bytes equals acc_norm, since `quiz` is plain ASCII. Two
lessons in one: normalising is no improvement by nature, and 30 items do not even show its direction.
</details>
"""

# %% [markdown]
r"""
## 5. Your own task in the harness

A **task** of lm-eval is a YAML file: where the items are, how they are asked, how they are scored. It needs no network:
the files are yours. These are the keys that you need (all of them, and many more, are in lm-eval's
[task guide](https://github.com/EleutherAI/lm-evaluation-harness/blob/main/docs/task_guide.md)); the exercise says
what belongs in the place of the dots:

```yaml
task: ...
dataset_path: ...        # which loader of the library `datasets`, not where the files are
dataset_kwargs:          # arguments of that loader
  data_files:
    test: ...            # a path
    dev: ...
test_split: ...          # one of the names under data_files, as is the next
fewshot_split: ...
output_type: ...
doc_to_text: ...         # the prompt
doc_to_choice: ...       # the choices
doc_to_target: ...       # the index of the right one
metric_list:
  - metric: ...          # an entry of three lines for each metric
    aggregation: ...
    higher_is_better: ...
metadata:
  version: ...
```

A `doc_to_` line names a field of the document, such as `choices`, or it is a template of **Jinja**, a language for
texts with places to fill: in `Is {{question}} hard?` the document's field `question` takes the place of the braces.

You write a function that returns such a file, since name and paths are other ones on each machine. Four traps:

- in single quotes `\n` is a backslash and an n, not a newline; in double quotes it is a newline;
- in an unquoted text, a colon with a space behind it makes a key, and a `#` with a space before it a comment;
- an unquoted value that begins with `{{` is no text but a mapping;
- in a Python f-string, `{{` is *one* brace.

A library that writes YAML puts quotes where they are needed: `import yaml` and `yaml.safe_dump(dictionary)`. By hand,
`json.dumps(text)` quotes any text, since a JSON string is a YAML string too.
"""

# %% exercise="task_yaml"

# %% [markdown]
r"""
**Seen to work.** Your file into a folder of its own, found by `TaskManager(include_path=...,
include_defaults=False)`. Without `include_defaults=False` the harness first reads some 14,000 files of its own
tasks, which takes far longer than this evaluation.

Then the moment of truth: the harness with *your* task must give the number that *your* scorer gave.
"""

# %%
from lm_eval.tasks import TaskManager

from course.quiz.items import DATA_FOLDER

task_yaml = use("task_yaml")
tasks_folder = plan.folder / "tasks"
tasks_folder.mkdir(parents=True, exist_ok=True)
files = {split: str((DATA_FOLDER / f"{split}.jsonl").resolve()) for split in ("test", "dev")}
(tasks_folder / "my_quiz.yaml").write_text(task_yaml("my_quiz", files), encoding="utf-8")
started = time.perf_counter()
manager = TaskManager(include_path=str(tasks_folder), include_defaults=False)
task = manager.load("my_quiz")["tasks"]["my_quiz"]
print(f"tasks found: {manager.all_tasks}; loaded in {time.perf_counter() - started:.1f} s, {len(task.eval_docs)} items")

# %%
before = plan.folder / "before"
run = evaluate(model, tokenizer, ["my_quiz"], before, items={"my_quiz": range(len(quiz))}, tasks_folder=tasks_folder)
for metric, share in mine_accuracy.items():
    print(f"{metric:>9}: your scorer {share:.4f}, the harness {run.score('my_quiz', metric):.4f}")
print("kept in", run.sample_files["my_quiz"])

# %% [markdown]
r"""
If a number differs by one item, look at that item: its two best choices may be so close that rounding decides, and a
padded batch rounds in another way than a single row does.

**What the harness keeps.** Three files, plain enough for any other tool: `results_*.json`, with the numbers, the
settings and the versions; `samples_*.jsonl`, one line an item with the very prompt, every log-probability and the
metrics; and a response cache, written answer by answer. Interrupt a long evaluation with ■ and run the cell again:
it goes on where it was. lm-eval's cache has a trap: its key is the prompt, *not the model*. Two models with one
cache file give you the first one's answers twice. `evaluate` (in `course/evaluation/harness.py`) puts a digest of
the weights into the file's name.
"""

# %%
first = json.loads(run.sample_files["my_quiz"].read_text(encoding="utf-8").splitlines()[0])
print({name: first[name] for name in ("doc_id", "target", "acc", "acc_norm")})
print(repr(first["arguments"]["gen_args_0"]["arg_0"]), "->", repr(first["arguments"]["gen_args_0"]["arg_1"]))
print("log-probabilities:", [round(float(response[0]), 2) for response in first["filtered_resps"]])

# %% [markdown]
r"""
## 6. Shots and templates: predict, then measure

The same model, the same items. Four ways to ask: with 0 or 4 shots, as plain text or in the chat template. First
write what the harness sends in each case. One detail is easily missed: in plain text a choice is asked for with a
space before it; in the chat template the assistant's turn begins on a new line, and the space goes.

The comparison uses the course's own task `quiz` in place of your `my_quiz`. Both ask the same. But a file that says
only `fewshot_split: dev` has its shots drawn *at random*, from a fixed seed, other ones for each question; `quiz` has
two more lines, `fewshot_config` with `sampler: first_n`, and shows every question the first four of dev. So with shots
the two give different numbers: one more thing that a table of results should say.
"""

# %% exercise="few_shot_request"

# %%
few_shot_request = use("few_shot_request")


def as_document(item) -> dict:
    """A quiz item as the exercise's dictionary."""
    return {"question": item.question, "choices": list(item.choices), "answer": item.answer}


def render(messages, add_generation_prompt):
    """The model's own chat template."""
    return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=add_generation_prompt)


told = "Answer each question in a few words.\n\n"
for name, description, template in (
    ("plain", "", None),
    ("chat", "", render),
    ("plain, with a description", told, None),
    ("chat, with a description", told, render),
):
    request = few_shot_request(as_document(quiz[0]), [as_document(load_quiz("dev")[0])], description, template)
    print(
        f"--- {name}: {len(tokenize(request['context']))} tokens\n{request['context']}{request['continuations'][0]}\n"
    )

# %% [markdown]
r"""
*Predict before you run:* write down four numbers, acc in percent for 0 and 4 shots, plain and chat. Which is the
largest? Chance is 25.
"""


# %%
def sent_by_harness(done) -> list[tuple[str, str]]:
    """Every (context, continuation) of a run, item by item, choice by choice, from the samples that were kept."""
    samples = [json.loads(line) for line in done.sample_files["quiz"].read_text(encoding="utf-8").splitlines()]
    samples.sort(key=lambda sample: sample["doc_id"])
    return [(sent["arg_0"], sent["arg_1"]) for sample in samples for sent in sample["arguments"].values()]


def sent_by_you(shots, template) -> list[tuple[str, str]]:
    """The same, by your own function."""
    shown = [as_document(item) for item in load_quiz("dev")[:shots]]
    asked = [few_shot_request(as_document(item), shown, "", template) for item in quiz]
    return [(each["context"], continuation) for each in asked for continuation in each["continuations"]]


ways = {}
for shots in (0, SHOTS):
    for chat in (False, True):
        done = evaluate(model, tokenizer, ["quiz"], before, shots=shots, chat=chat, items={"quiz": range(ITEMS)})
        pairs = list(zip(sent_by_you(shots, render if chat else None), sent_by_harness(done), strict=True))
        equal = sum(one == other for one, other in pairs)
        ways[shots, "chat" if chat else "plain"] = done.score("quiz", "acc")
        print(f"{shots} shots, {'chat' if chat else 'plain'}: {equal} of {len(pairs)} requests as you wrote them")
measured = pd.Series(ways).unstack()
print((100 * measured).round(1).to_string())
axis = (100 * measured).plot.bar(rot=0, color=["#d98c3f", "#1f4e79"])
axis.axhline(25, color="black", linewidth=1, linestyle=":")
axis.set(title=f"One model, {ITEMS} items, four ways to ask", xlabel="shots", ylabel="acc, percent", ylim=(0, 100))
plt.show()

# %% [markdown]
r"""
With so few items these differences are mostly noise: at 30 items, one item is 3.3 points, and a 95 % interval is
about 17 points to each side. That is the point. *A prompt format can move a score, and a small sample can look as
if it did.* You need more items, the same items both times, and the statistics of the next lesson before you say
which it is.

## 7. Broken code: the scorer that was 20 points off

Often an answer *is* generated, and a letter taken from it. A colleague's scorer reports 31 % for a model that you
know to be better. It raises no error:

```python
def letter_score(outputs, order, golds):
    picked, right = [], 0
    for text, gold in zip(outputs, golds):
        found = re.search("[ABCD]", text)            # the letter
        picked.append(found.group() if found else None)
        right += picked[-1] == gold
    answered = [letter for letter in picked if letter]
    return {"picked": picked, "accuracy": right / len(answered), "unanswered": picked.count(None)}
```

The outputs come from batches that were sorted by length, to save padding; `order` says which question each belongs
to. There are three faults. *Write them down before you go on: the text of the exercise says what would be right.*
"""

# %% exercise="repair_letter_score"

# %%
repaired = use("repair_letter_score")
said = [
    "A good question. Answer: B",
    "I am Claude, ask me later.",
    "answer is C",
    "Because it floats, the answer is D.",
]
print(repaired(said, [3, 1, 0, 2], ["C", "A", "D", "B"]))

# %% [markdown]
r"""
The broken one would have picked A, C, C, B from these, in the wrong order, and forgiven what was not answered.

## 8. The real run: what did fine-tuning teach, and what did it cost?

In *QLoRA, for real* a model learned to write SQL. **The plan, fixed before any result is seen:**

- two tasks, both through lm-eval: `sql` (120 of the hand-written questions, 60 on schemas seen in training and 60
  on held-out ones; a query is right when its *executed result* is that of the gold query) and `quiz` (all 310
  items, plain text, no shots, metric acc);
- the base model and the tuned model get the same items. On `sql` each gets the system message it knows: the base
  model an instruction, the tuned one its training format. On `quiz` the prompts are identical;
- reported are shares with 95 % intervals, by the bootstrap: the share is taken again and again from items drawn at
  random out of those that there are, and the interval holds the middle 95 % of what comes out. The change has a
  *paired* interval: both models answered the same items, so each item's own change is what is drawn. (The next
  lesson is about these.)

If your run of that lesson is in this workspace, its adapter is measured. If not, a short one is trained now, and its
numbers are lower: the line printed at the top says which.

*Predict:* how many points will `quiz` lose?
"""

# %%
from course.lessons.l17_metrics.run import evaluate_both_tasks, train_if_needed, tuned_model

evaluations = {"before": evaluate_both_tasks(plan, "before", model, tokenizer)}
del model

# %%
print(plan.says)
train_if_needed(plan)
model, tokenizer = tuned_model(plan)
evaluations["after"] = evaluate_both_tasks(plan, "after", model, tokenizer)

# %%
from course.evaluation import compare_runs, turned

rows, changes = [], {}
for task in ("sql", "quiz"):
    runs = {name: scored_items(task, evaluations[name][task].sample_files[task]) for name in evaluations}
    row = changes[task] = compare_runs(runs, task)
    for name, measured_share in {**row.shares, "change, paired": row.change}.items():
        rows.append((task, name, measured_share.items, measured_share.percent, measured_share.low, measured_share.high))
    print(f"{task}: {' and '.join(f'{len(items)} items {name}' for name, items in turned(runs).items())}")
result = pd.DataFrame(rows, columns=["task", "model", "items", "percent", "low", "high"])
print(result.round(1).to_string(index=False))

figure, axis = plt.subplots()
for place, (name, colour) in enumerate({"before": "#d98c3f", "after": "#1f4e79"}.items()):
    for at, task in enumerate(changes):
        found = changes[task].shares[name]
        spans = [[found.percent - found.low], [found.high - found.percent]]
        label = name if at == 0 else None
        axis.bar(at + (place - 0.5) * 0.36, found.percent, 0.34, color=colour, label=label)
        axis.errorbar(at + (place - 0.5) * 0.36, found.percent, yerr=spans, fmt="none", ecolor="black", capsize=3)
axis.set_xticks(range(len(changes)), list(changes))
axis.set(title="Before and after fine-tuning, with 95 % intervals", ylabel="percent right", ylim=(0, 100))
axis.legend()
plt.show()

# %% [markdown]
r"""
<details><summary>What we saw, after you have seen yours</summary>

With an adapter trained longer than L09's (168 steps of 16 rows, joins among them): `sql` 0 to 48.3 % [39.2, 57.5],
58 of 120 items learned and none lost. `quiz` 38.1 to 34.8 % of 310, 20 items learned and 30 lost; the change is -3.2
points [-7.7, 1.0]. So it learned the task, and perhaps forgot a little. (On two CPU cores in float32. Another kind of
processor adds in another order, and a few answers may turn.)
</details>

An interval of the change that contains 0 does not say that nothing was forgotten. It says that with these items a
loss of up to its lower end cannot be told from none. (The next lesson works out how many items would do.)

### A page to show, and the record

The page holds the scores with intervals, before and after by topic and by kind of query, what was lost and learned,
and examples of every kind of error. It is one file without anything else: open it in a browser, or send it. Read
the errors before you believe the score: which of them would a user mind?
"""

# %%
from course.evaluation import write_report

page = write_report(
    plan.folder / "report.html", f"{plan.recipe.model} before and after fine-tuning on SQL", evaluations
)
print("written:", page)

# %% [markdown]
r"""
The record goes to `runs/l17/result.json`; lm-eval's own files stay beside it.
"""

# %%
from course.run_record import write_record

record = {
    "smoke": plan.recipe.smoke,
    "model": plan.recipe.model,
    "dtype": plan.recipe.dtype,
    "adapter": str(plan.adapter_folder),
    "adapter_trained_in_l09": plan.trained_in_l09,
    "scores": result.round(2).to_dict("records"),
    "files": {name: [str(e.results_file) for e in tasks.values()] for name, tasks in evaluations.items()},
}
write_record(plan.folder / "result.json", "l17_metrics", record)
print("written:", plan.folder / "result.json")

# %% [markdown]
r"""
## 9. Extension: pass@k

For code, an answer is often sampled several times, and the question is whether one of k samples is right. Drawing k
samples once is noisy; so more are drawn, n, and the chance over all ways to choose k of them is worked out (Chen et
al. 2021).

*Predict:* of 10 samples of a problem, 3 are right. What is pass@2: 0.3, 0.51, 0.53, or 0.6?
"""

# %% exercise="pass_at_k"

# %%
pass_at_k = use("pass_at_k")
print(f"unbiased: {pass_at_k([(10, 3)], 2):.4f}; plugged in: {1 - 0.7**2:.4f}")
ks = range(1, 11)
plt.plot(ks, [pass_at_k([(10, 3)], k) for k in ks], "o-", color="#1f4e79", label="unbiased")
plt.plot(ks, [1 - 0.7**k for k in ks], "o--", color="#d98c3f", label="1 - (1 - c/n)^k, too low")
plt.gca().set(title="10 samples, 3 of them right", xlabel="k", ylabel="pass@k", ylim=(0, 1.05))
plt.legend()
plt.show()
progress()

# %% [markdown]
r"""
## 10. Interview questions

<details><summary>How is a multiple-choice question scored without generating anything? Which two off-by-one errors
lurk?</summary>

For each choice, the sum of the log-probabilities of its tokens given the question; the largest wins. Logits at a
place are about the next token, so the first continuation token is read at the last context token, and the last
continuation token need not be fed in. The other error is counting context tokens, or BOS, as if they were asked
for.
</details>

<details><summary>Why does acc_norm exist, which way can it mislead, and which of the two do you report?</summary>

A sum of log-probabilities shrinks with length, so acc prefers short choices. Dividing by length removes that, and
can overdo it: long, fluent, wrong choices win. Report the one that was fixed before the run, name the library's
version, and say that "norm" means characters there.
</details>

<details><summary>Two harnesses give the same model 38 % and 31 % on the same questions. Name three causes in the
prompt.</summary>

A space at the end of the context, or its tokens encoded apart; the chat template on or off, with its own system
turn; the number and order of shots; choices listed in the prompt and scored by letter, or scored as texts; BOS
added or not. Print one full request of each and compare them character by character.
</details>

<details><summary>Exact match says 41, F1 says 58. What kinds of answers make the difference, and which do you
report?</summary>

Answers that hold the gold and say more, or parts of it. If a person or program uses the bare answer, exact match;
if the answer is read, F1. Read twenty of the items between the two before deciding.
</details>

<details><summary>Why is BLEU computed over a corpus and not averaged over sentences, and what does its brevity penalty
do?</summary>

One sentence without a matching 4-gram has BLEU 0, so an average is ruled by short sentences. Sums over the corpus are
stable. The penalty stands in for recall: precision alone would reward saying one sure word.
</details>

<details><summary>How do you add your own test set to lm-eval, and what do you check before you believe its
number?</summary>

A YAML task over a local file, `include_path`, `include_defaults=False`. Then: print a full prompt with its
continuation, check golds of a few items by eye, score ten items with own code, score them with the gold answers put
in (must be 100 %) and with the question left out (must be near chance).
</details>

<details><summary>A model's score fell by 20 points after an upgrade that should change nothing. How do you look for a
fault in the evaluation itself?</summary>

Compare the sample logs item by item, not the scores. Same prompts? Same extracted answers for the same outputs? Is
the order right, the denominator, the stop sequence, the padding side? Was a cache of another model read?
</details>

<details><summary>You drew 20 samples for each problem. How do you report pass@10, and why not
1 - (1 - pass@1)^10?</summary>

1 - C(n - c, k) / C(n, k) for each problem, then the mean. The other one pools problems of different difficulty and
draws with replacement: it is biased.
</details>

<details><summary>Your fine-tuned model gained on its task. How do you find out what it forgot?</summary>

Run a fixed set of other tasks before and after, the same items and prompts, and report paired changes with
intervals, over all and by slice (one topic or kind of item at a time). A loss that is smaller than the interval is
not "no loss".
</details>

## What you can now claim

- You can compute exact match, F1, ROUGE-L, BLEU, multiple-choice accuracies and pass@k by hand, equal to the
  libraries, and say how each of them misleads.
- You can say exactly what a harness sends to a model, token by token, and find out why two harnesses disagree.
- You can put a test set of your own into lm-eval, offline, and evaluations that you start can be interrupted and
  resumed.
- You measured a fine-tuned model before and after on its task and on another one, with paired intervals.

Back: *QLoRA, for real* (the model you measured), *Tokens, chat text and the context window* (templates and seams).
Next: *Statistics for evals*: what such an interval is, and how many items you need.
"""
