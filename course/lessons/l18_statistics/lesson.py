# %% [markdown]
r"""
# Statistics for evals

**Your time: about 2 hours. Running every cell on 2 CPU cores: about 1 minute.**

In L09 you fine-tuned a model and got a gain with an interval from a library. Here you build what stands behind such a
number: intervals, paired tests, sample sizes, the luck of the seed, corrections for many tries. Each part is compared
with the library that people use. At the end you write one sentence about L09's gain, and a gate recomputes every
number in it.

Stuck? `hint()` shows the next hint for the exercise that you checked last. In the cells between the exercises,
`use("bootstrap_interval")` takes your own function once it has passed, and the course's until then (it says which).
A later answer may call a function that such a cell has named; the last two exercises have a use for that.
"""

# %% [markdown]
r"""
## Why this matters on the job

Somebody will ask you: *is the new model better, and how do you know?* The usual answer is two numbers, 41 % and 44 %,
and a green tick. Asked the same way again, on other questions or with another seed, the same two models may come out
the other way round. Teams ship such noise, and throw away real improvements that a test set was too small to show.
All it takes to do better is ten short functions and the habit of asking four questions first: *Did both answer the same
questions? Are they the questions that the claim is about? Is the claim about this one training, or were there enough
seeds for more? How many comparisons were made?*

Words used below. **Share**: right answers over questions asked. **Point**: one percentage point, the difference
between 40 % and 41 %. **Standard error**: how far a result would typically move if the questions were drawn anew.
**95 % interval**: a range made in such a way that it catches the true value 95 times in 100. **p-value**: how probable
a difference at least as large as the one seen would be if there were none.
"""

# %%
import math
from math import comb
from statistics import NormalDist
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from course.lessons.l18_statistics.eval_runs import as_table, load_run, right_by_id
from grader import check, hint, progress, reset, solution, use

plt.rcParams.update({"figure.facecolor": "white", "axes.facecolor": "white", "figure.figsize": (7, 3)})
plt.rcParams.update({"axes.grid": True, "grid.alpha": 0.3})
BLUE, ORANGE, RED, GREY = "#1f4e79", "#d98c3f", "#b03a2e", "#8a9aa9"

# %% [markdown]
r"""
## The runs of this lesson

Real ones, small enough to be made on two cores, one row a question (`datasets/eval_runs`, whose card says exactly what
was run):

- `zero-shot`: the base model SmolLM2-135M-Instruct, told what to do and asked L09's questions;
- `step50`: a QLoRA run like L09's, stopped after 50 of its 168 steps;
- `order1` and `order2`: that model trained for 6 more steps, twice with the same recipe (the same rows and settings),
  the rows in another order. Nothing else differs, so they are two draws of one lottery.

Each answered all 120 questions on the three *held-out* databases, which training never shows. `zero-shot` and
`step50` also answered 60 questions on *seen* databases and 100 items of the course's quiz.

**Predict before you run**, and write it down:

1. `step50` gets about one held-out question in six right. How wide is the 95 % interval of that share, in points?
2. How far apart are `order1` and `order2` on the same questions?
3. How many questions show a true gain from 40 to 43 % in 80 of 100 evaluations, if each run has questions of its own?
"""

# %%
RUNS = ("zero-shot", "step50", "order1", "order2")
everything = pd.DataFrame(as_table(*RUNS))
counts = everything.groupby(["way", "split"], sort=False)["correct"].agg(["size", "sum", "mean"])
counts["percent"] = (100 * counts.pop("mean")).round(1)
print(counts.rename(columns={"size": "questions", "sum": "right"}).to_string())

# %% [markdown]
r"""
## 1. A share is a draw

The 120 held-out questions are a sample of all the questions that could have been asked. Draw another 120, and the same
model scores differently. The picture shows how differently, for a model whose true share is the one of `step50`:
each dot on the left is one imaginary test set.

We have one test set only. The **bootstrap** makes do with it: it draws 120 questions *from the 120*, with
replacement, again and again. How far these resamples scatter around the observed share is a good guess of how far
test sets scatter around the truth.
"""

# %%
random = np.random.default_rng(0)
heldout = np.array(list(right_by_id("step50", split="heldout").values()))
true_share, count = heldout.mean(), len(heldout)
test_sets = random.binomial(count, true_share, 2000) / count
resamples = heldout[random.integers(0, count, (2000, count))].mean(axis=1)
figure, axes = plt.subplots(1, 2, figsize=(9, 3), sharex=True)
axes[0].plot(100 * test_sets[:150], range(150), ".", color=GREY)
axes[0].axvline(100 * true_share, color=RED)
axes[0].set(title="150 imaginary test sets of 120", xlabel="percent right", yticks=[], ylabel="")
axes[1].hist(100 * resamples, bins=np.arange(4, 34, 100 / count), color="#9db8d9", edgecolor="white")
for end in np.quantile(resamples, [0.025, 0.975]):
    axes[1].axvline(100 * end, color=BLUE, linestyle="--")
axes[1].set(title="2,000 resamples of the one we have", xlabel="percent right")
plt.tight_layout()
plt.show()
print(f"test sets scatter by {100 * test_sets.std():.2f} points, resamples by {100 * resamples.std():.2f}")

# %% [markdown]
r"""
Two things to get right. **The unit is the question.** A metric may count smaller parts (tokens, sub-questions,
several samples for each prompt), but parts of one question are right or wrong together; drawing them one by one
pretends to more evidence than there is. And the statistic is a **ratio of sums**, so both sums come from the same draw.
"""

# %% exercise="bootstrap_interval"

# %% [markdown]
r"""
**Equal to the library.** L09 took its intervals from `course.sql.bootstrap_interval`, which calls
`scipy.stats.bootstrap`. Same seed, same draws, same ends, to the last digit that is shown:
"""

# %%
from course.sql import bootstrap_interval as from_scipy

bootstrap_interval = use("bootstrap_interval")
for way in ("step50", "order1", "order2"):
    scores = np.array(list(right_by_id(way, split="heldout").values()), float)
    mine = bootstrap_interval(scores, np.ones(len(scores)), seed=0, resamples=5000)
    library = from_scipy(scores, seed=0)
    print(f"{way}: {100 * scores.mean():4.1f} %, yours [{100 * mine[0]:.4f}, {100 * mine[1]:.4f}]", end="  ")
    print(f"scipy's [{100 * library[0]:.4f}, {100 * library[1]:.4f}]")
    assert np.allclose(mine, library, atol=1e-12), "your interval differs from scipy's"

# %% [markdown]
r"""
So the first guess: `step50` has 16.7 % right, and its interval is 13 points wide, from 10.0 to 23.3.

### The trap: nothing right, no width

The base model has 0 right answers of 120. Every resample of zeros is zeros, and the interval is [0, 0]. That is no
proof that the model can do nothing. The *rule of three* helps: when 0 of N were right, every true share below about
3 / N fits with that (since (1 - 3/N)ᴺ is about 5 %).
"""

# %%
zeros = np.zeros(120)
low, high = bootstrap_interval(zeros, np.ones(120), seed=0)
print(f"zero-shot, 0 of 120: bootstrap [{low:.1f}, {high:.1f}], rule of three: below {100 * 3 / 120:.1f} %")
print(f"exactly: a share of {100 * (1 - 0.05 ** (1 / 120)):.2f} % gives 0 of 120 with 5 % probability")

# %% [markdown]
r"""
## 2. The standard error, and questions that belong together

For a plain share nobody needs to resample. The mean of N independent scores has the standard error

$$ \mathrm{SE} = \frac{s}{\sqrt N}, \qquad s^2 = \frac{1}{N-1} \sum_i (x_i - \bar x)^2 $$

and ±1.96 of it is the 95 % interval. lm-eval prints exactly this as `acc_stderr`. Three confusions are common:
quoting s itself (the spread of single answers, 37 points here) as the error of the mean; taking N - 1 under the root,
too, though s has it already; and believing "independent" without looking.

The held-out questions are on three databases. A model that cannot make sense of one database's tables fails many
questions at once: the questions on one database are a **cluster**. Clusters make a test set smaller than it looks. The
robust formula adds up the residuals of a cluster *before* squaring, so that what its questions share adds up instead of
cancelling:

$$ \mathrm{SE}_\text{cluster} = \frac{1}{N}
\sqrt{\frac{G}{G-1} \sum_{g=1}^{G} \Bigl(\sum_{i \in g} (x_i - \bar x)\Bigr)^2} $$
"""

# %%
figure, axis = plt.subplots(figsize=(8, 3))
by_schema = everything[everything["way"] == "step50"].groupby(["split", "schema"])["correct"].agg(["mean", "size"])
by_schema = by_schema.sort_values(["split", "mean"])
colours = [ORANGE if split == "heldout" else BLUE for split, _ in by_schema.index]
axis.bar([name for _, name in by_schema.index], 100 * by_schema["mean"], color=colours)
axis.set(title="step50: percent right by database (held-out in orange)", ylabel="percent")
axis.tick_params(axis="x", rotation=60)
plt.show()

# %% exercise="clustered_stderr"

# %%
from lm_eval.api.metrics import mean_stderr

clustered_stderr = use("clustered_stderr")
for split in ("heldout", "seen"):
    part = everything[(everything["way"] == "step50") & (everything["split"] == split)]
    scores = part["correct"].to_numpy(float)
    found = clustered_stderr(scores, part["schema"].tolist())
    print(f"step50, {split}: {len(scores)} questions on {part['schema'].nunique()} databases", end="; ")
    print(", ".join(f"{name} {100 * value:.2f}" for name, value in found.items()), "points")
    assert math.isclose(found["independent"], mean_stderr(scores.tolist())), "differs from lm-eval's acc_stderr"
print("independent equals lm-eval's acc_stderr")

# %% [markdown]
r"""
On the held-out databases the clustered error is 6.0 points, and the independent one 3.4: one of the three (`energy`)
is much harder than the others. On the seen ones the clustered error comes out smaller, 3.9 against 5.0, by chance. So
before you trust it, count the clusters: with three, it is a guess from three totals. A claim about *new databases in
general* from three of them is weak however many questions are asked. More databases help, more questions on the same
three hardly do.

How bad can it get? The next cell makes test sets of 240 questions on 20 databases, each with its own difficulty, for a
model whose true share is 50 %, and counts how often 95 % intervals miss that.
"""

# %%
random = np.random.default_rng(1)
missed = {"independent": 0, "clustered": 0}
ROUNDS = 600
names = [f"d{place // 12}" for place in range(240)]  # 20 databases, 12 questions each
for _ in range(ROUNDS):
    difficulty = np.repeat(random.beta(1.5, 1.5, 20), 12)  # true mean 0.5
    scores = (random.random(240) < difficulty).astype(float)
    for name, error in clustered_stderr(scores, names).items():
        missed[name] += abs(scores.mean() - 0.5) > 1.96 * error
print({name: f"{100 * value / ROUNDS:.0f} % of 95 % intervals miss the truth" for name, value in missed.items()})

# %% [markdown]
r"""
Intervals that ignore the clusters miss the truth in 29 of 100 such evaluations, and call themselves 95 %. The clustered
ones miss it in 6, with 20 clusters.

## 3. Two runs on the same questions

Does SQL training cost general knowledge? `zero-shot` and `step50` answered the same 100 quiz items. Most are answered
alike by both, and those say nothing about which is better. Everything is in the two corners where they differ:

```
                         step50 right   step50 wrong
   zero-shot right           both           lost
   zero-shot wrong          gained        neither
```

If neither run were better, a changed question would be a fair coin: gained or lost. **McNemar's test** asks how
surprising the split is. That needs no normal distribution and no variance: exactly k heads in n flips come with the
probability $\binom{n}{k} / 2^n$ (`comb(n, k)` in Python), and every split at least as uneven as the one seen counts, to
either side.

*Predict:* the base model has 38 of 100 right, `step50` 30. With error bars of about 9 points on each, can a test on the
same questions see more than the two bars do?
"""

# %% exercise="mcnemar_exact"

# %%
from scipy.stats import binomtest

mcnemar_exact = use("mcnemar_exact")


def both(first: str, second: str, task: str = "sql") -> tuple[np.ndarray, np.ndarray]:
    """Two runs' answers to the quiz, or to the held-out questions: (N,) bool each, question i the same."""
    wanted = {"split": "heldout"} if task == "sql" else {}
    old, new = (right_by_id(name, task, **wanted) for name in (first, second))
    return np.array(list(old.values())), np.array([new[name] for name in old])


pairs = {
    "held out: zero-shot -> step50": both("zero-shot", "step50"),
    "held out: step50 -> order1": both("step50", "order1"),
    "held out: step50 -> order2": both("step50", "order2"),
    "held out: order1 -> order2": both("order1", "order2"),
    "quiz: zero-shot -> step50": both("zero-shot", "step50", "quiz"),
}
rows = []
for name, (old, new) in pairs.items():
    test = mcnemar_exact(old, new)
    changed = test["gained"] + test["lost"]
    assert math.isclose(test["p"], binomtest(test["gained"], changed).pvalue if changed else 1.0)
    low, high = bootstrap_interval(new.astype(float) - old, np.ones(len(old)), seed=0)
    gain = 100 * (new.mean() - old.mean())
    rows.append((name, gain, test["gained"], test["lost"], test["p"], 100 * low, 100 * high))
table = pd.DataFrame(rows, columns=["runs", "points", "gained", "lost", "p", "low", "high"])
print(table.round({"points": 1, "p": 4, "low": 1, "high": 1}).to_string(index=False))

# %%
old, new = pairs["quiz: zero-shot -> step50"]
errors = [scores.std(ddof=1) / math.sqrt(len(scores)) for scores in (old, new)]
paired = (new.astype(float) - old).std(ddof=1) / math.sqrt(len(old))
gain = new.mean() - old.mean()
bars = [
    ("zero-shot", old.mean(), errors[0], BLUE),
    ("step50", new.mean(), errors[1], BLUE),
    ("gain, as if unpaired", gain, math.hypot(*errors), GREY),
    ("gain, paired", gain, paired, RED),
]
figure, axis = plt.subplots(figsize=(8, 2.4))
for place, (_, middle, error, colour) in enumerate(bars):
    axis.errorbar(100 * middle, -place, xerr=196 * error, fmt="o", capsize=4, color=colour)
axis.set_yticks([0, -1, -2, -3], [bar[0] for bar in bars])
axis.axvline(0, color="black", linewidth=1)
axis.set(xlabel="percent of the quiz, or percentage points")
plt.show()
print(f"standard error of the gain: {100 * math.hypot(*errors):.2f} points as if unpaired, {100 * paired:.2f} paired")

# %% [markdown]
r"""
The same answers, the same loss of 8 points, and two error bars: pairing removes what makes questions easy or hard for
*both* runs. So two overlapping intervals do not mean "no difference". What overlaps there is mostly the difficulty of
the questions.

Read the p-values together with the intervals. Above 0.05 means "not shown with these questions", never "equal": on the
quiz a loss of 17 points fits the data, and so does none.

### Any score: exchange and count

McNemar needs right and wrong. ROUGE, F1 or a judge's marks are numbers. If neither run is better, the two scores of a
question could just as well have been exchanged. A **permutation test** does that at random, question by question, and
counts how often the mean difference gets as far from 0 as the real one. Such means are often equal on paper, and the
computer's differ in the last digit: with 0.1, 0.2 and 0.3 a bare `>=` would leave it to rounding which ties count.
"""

# %% exercise="permutation_test"

# %%
permutation_test = use("permutation_test")
for name, (before, after) in pairs.items():
    flips = np.random.default_rng(0).choice([-1.0, 1.0], size=(20_000, len(before)))
    drawn = permutation_test(before.astype(float), after.astype(float), flips)
    print(f"{name}: permutation p {drawn:.4f}, McNemar {mcnemar_exact(before, after)['p']:.4f}")

# %% [markdown]
r"""
On right and wrong the two tests are the same question asked twice, once by drawing and once by counting. 20,000 draws
leave a little noise, and a p-value can never be below 1 / 20,001.

## 4. How many questions?

Turn it round: before you build a test set, decide which difference matters and ask how many questions show it. A test
with **power** 80 % finds a true difference of that size in 80 of 100 evaluations. The test is the z-test: a difference
is shown when it is more than 1.96 of its standard errors from 0. Two distances have to fit between "no difference" and
the true one:

```
      no difference            the line               true difference
            |---- z(0.975) SE ----|----- z(0.80) SE -----|
            |       1.96 SE       |       0.84 SE        |
```

so the true difference must be 2.80 standard errors, and the standard error shrinks with √N. *Half the difference needs
four times the questions.* With the same questions for both runs the standard error is smaller, by how seldom they
disagree.
"""

# %% exercise="questions_needed"

# %%
questions_needed = use("questions_needed")
old, new = pairs["held out: step50 -> order1"]
disagree = float((old != new).mean())
print(f"step50 and order1 disagree on {100 * disagree:.1f} % of the held-out questions")
for points in (2, 3, 5, 10):
    plan = questions_needed(0.40, 0.40 + points / 100, max(disagree, points / 100))
    print(f"+{points:>2} points from 40 %: {plan['unpaired']:>6,} questions a run with separate questions,", end=" ")
    print(f"{plan['paired']:>6,} with the same ones ({100 * plan['saved']:.0f} % fewer)")

# %% [markdown]
r"""
So the third guess: 4,231 questions for each run. With the same questions for both less than half of that is enough,
though these two runs disagree often.

**Against simulation.** 4,000 evaluations at several sizes, with the true gain of three points built in: how often
does a two-sided test find it?
"""

# %%
random = np.random.default_rng(2)
plan = questions_needed(0.40, 0.43, disagree)
sizes = np.unique(np.geomspace(120, 2 * plan["paired"], 10).round().astype(int))
shares = [(disagree + 0.03) / 2, (disagree - 0.03) / 2, 1 - disagree]
power = []
for size in sizes:
    drawn = random.multinomial(size, shares, 4000)
    power.append((np.abs(drawn[:, 0] - drawn[:, 1]) > 1.96 * np.sqrt(drawn[:, 0] + drawn[:, 1])).mean())
figure, axis = plt.subplots()
axis.plot(sizes, 100 * np.array(power), "o-", color=BLUE, label="4,000 simulated evaluations")
axis.axvline(plan["paired"], color=RED, linestyle="--", label=f"your formula: {plan['paired']:,}")
axis.axvline(120, color=GREY, linestyle=":", label="our 120")
axis.axhline(80, color="black", linewidth=0.8)
axis.set(xlabel="questions, both runs on the same", ylabel="finds +3 points, percent", ylim=(0, 100))
axis.legend()
plt.show()
print(f"with our 120 questions: {100 * power[0]:.0f} % of the evaluations find it")

# %% [markdown]
r"""
So 120 questions can show that training taught the model something, and cannot show three points. Know that *before*
the run: a comparison that could not have succeeded costs the same as one that could.

## 5. Luck of the seed, luck of many tries

### The seed

`order1` and `order2` come from one recipe. An interval over questions says how far *this model's* score
would move on other questions. It knows nothing of other trainings. Whoever claims that a *recipe* is better must train
several times, and then there are two sources of luck at once, the questions and the seed.

Each has its variance: that of the seeds' shares, and that of the questions' means. Add the two, and one thing is
counted twice. Take an answer that comes out otherwise for one seed on one question, by nothing but luck. It moves its
seed's share, and its question's mean as well. So this luck of single cells is taken away once. How large it is, the
*residuals* say: what a cell is off after its seed's mean and its question's mean have explained what they can.
"""

# %%
grid = np.array([list(right_by_id(name, split="heldout").values()) for name in ("order1", "order2")], float)
order = np.argsort(-grid.mean(axis=0), kind="stable")
figure, axis = plt.subplots(figsize=(9, 1.2))
axis.imshow(grid[:, order], aspect="auto", cmap="Blues", interpolation="nearest", vmin=-0.15, vmax=1.3)
axis.set_yticks(range(2), ["order1", "order2"])
axis.grid(False)
axis.set(xlabel="120 held-out questions, easiest first", title="right answers (dark) of two trainings")
plt.show()
agree = (grid[0] == grid[1]).mean()
print(f"percent right: {(100 * grid.mean(axis=1)).round(1)}; both agree on {100 * agree:.0f} % of the questions")

# %% exercise="seed_variance"

# %%
seed_variance = use("seed_variance")
found = seed_variance(grid)
print({name: f"{100 * value:.2f}" for name, value in found.items()}, "percent or points")
pooled = grid.std(ddof=1) / math.sqrt(grid.size)
print(f"all {grid.size} answers taken as independent: {100 * pooled:.2f} points")

# %% [markdown]
r"""
So the second guess: the two shares are one question apart (21 and 22 of 120), which is 0.8 points, and yet the
trainings answer 17 questions differently: 9 gained, 8 lost. That the sum comes out so even is luck, and the numbers
show it. `stderr` is *below* `question_stderr`: the two seeds lie closer together than the changed answers would lead
one to expect, so the seeds' share of the variance is estimated below zero. Nobody should conclude that seeds do not
matter here.

Mind also what these two are. They share their first 50 steps, so their scatter is that of the last 6 steps alone;
trainings that differ from the start scatter more. And a spread from few values is rough. With two seeds the 95 %
interval of a standard deviation reaches from 0.4 of it to 32 times it, with three from half of it to six times (by
the chi-squared distribution with one and two degrees of freedom). Two seeds show that a score moves; they do not show
how much. Three is the least that deserves a claim about a recipe, and the rule of section 7 asks for it.

### Many tries

Look at enough slices of one result and one of them will shine. If nothing differs at all, the smallest of m independent
p-values is below 0.05 with probability 1 - 0.95ᵐ.
"""

# %%
from course.lessons.l18_statistics.cards import p_by_kind

tries = np.arange(1, 31)
random = np.random.default_rng(3)
simulated = [(random.random((4000, m)).min(axis=1) < 0.05).mean() for m in tries]
figure, axis = plt.subplots()
axis.plot(tries, 100 * (1 - 0.95**tries), color=BLUE, label="1 - 0.95^m")
axis.plot(tries, 100 * np.array(simulated), ".", color=ORANGE, label="4,000 simulated projects")
axis.set(xlabel="comparisons looked at", ylabel="at least one below 0.05, percent", ylim=(0, 100))
axis.legend()
plt.show()

# %% [markdown]
r"""
**Holm's correction** bounds the probability of *any* false claim at 5 % again. The smallest p-value has to survive all
m comparisons (times m), the next one only those that are left (times m - 1), and so on. Where a stronger result falls,
no weaker one may stand: none comes out below the adjusted value of a smaller p-value.
"""

# %% exercise="holm"

# %%
holm = use("holm")
by_kind = p_by_kind("zero-shot", "step50")
table = pd.DataFrame({"p": by_kind.values(), "Holm": holm(list(by_kind.values()))}, index=list(by_kind))
print("step50 against zero-shot, by kind of query (180 questions, kinds with at least five)")
print(table.round(3).to_string())

# %% [markdown]
r"""
## 6. Repair: a script that says +5 %

This script was written in a hurry, and it runs. It has four faults, and each of them has been published.
"""


# %%
def broken_comparison(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, float]:
    """Compare two result files. Do not use: four faults."""
    old = np.array([row["correct"] for row in before if row["correct"] is not None], float)
    new = np.array([row["correct"] for row in after if row["correct"] is not None], float)
    n = min(len(old), len(new))
    old, new = old[:n], new[:n]
    return {
        "questions": n,
        "before": float(100 * old.mean()),
        "after": float(100 * new.mean()),
        "gain": float(100 * (new.mean() - old.mean()) / old.mean()),
        "stderr": float(100 * (new - old).std(ddof=1)),
    }


def in_file_order(name: str, seed: int) -> list[dict[str, Any]]:
    """The held-out rows of a run as a harness with several workers writes them: in any order, answers that never
    parsed left open."""
    kept = [row for row in load_run(name) if row["split"] == "heldout"]
    shuffled = [kept[place] for place in np.random.default_rng(seed).permutation(len(kept))]
    return [
        {"id": row["id"], "correct": None if row["outcome"] == "does not parse" else row["correct"]} for row in shuffled
    ]


old_file, new_file = in_file_order("step50", 1), in_file_order("order1", 2)
print({name: round(value, 1) for name, value in broken_comparison(old_file, new_file).items()})

# %% exercise="repair_comparison"

# %%
repair_comparison = use("repair_comparison")
print({name: round(value, 1) for name, value in repair_comparison(old_file, new_file).items()})

# %% [markdown]
r"""
## 7. Is it better? Eight case cards

Eight claims, as they stand in pull requests, on the real files of this lesson. Each is about a *model* (these very
weights) or about a *recipe* (what such a training does in general). It says that the later run is better, or that it
kept what the earlier one could.

**"Kept" is a claim of its own.** "We found no significant difference" is what every small test says about everything.
To claim that fine-tuning did *not* cost general knowledge, fix a margin first (here 5 points: the loss that would
matter), and show that the whole interval lies above minus the margin.

**Decide each one yourself first**, with one of these verdicts, and write it down:

- *not comparable*: the runs hold different questions;
- *wrong questions*: they are not the questions that the claim is about;
- *too few seeds*: the claim is about a recipe, and a side has fewer than three;
- *better*, *worse*: the difference is shown, with all comparisons counted;
- *kept*: a loss of the margin or more is excluded;
- *not shown*: neither is.
"""

# %%
from course.lessons.l18_statistics.cards import cards

for number, each in enumerate(cards(), start=1):
    given = each.inputs
    common = given["before"].keys() & given["after"].keys()
    print(f"{number}. {each.title}\n   {each.says}")
    print(f"   before: {sum(given['before'].values())} of {len(given['before'])} right, after: ", end="")
    print(f"{sum(given['after'].values())} of {len(given['after'])}; {len(common)} questions in both")
    claim = given["claim"]
    print(f"   claim: {claim['kind']} on {claim['split']} questions, of this {claim['about']};", end=" ")
    print(f"seeds {given['seeds'][0]} and {given['seeds'][1]}; other comparisons made: {len(given['other_p'])}\n")

# %% [markdown]
r"""
Now write the rule that decides all of them. Note its order. Three of the four questions come before any arithmetic: the
same questions, those of the claim, enough seeds; no p-value repairs an answer of "no". The fourth, how many comparisons
were made, goes into the p-value. Your `mcnemar_exact` and `holm` may be called.
"""

# %% exercise="is_it_better"

# %%
is_it_better = use("is_it_better")
for number, each in enumerate(cards(), start=1):
    print(f"{number}. {is_it_better(**each.inputs):<16} {each.title}")

# %% [markdown]
r"""
Compare with what you wrote down. The usual misses are the card where a slice shines, and the one about the quiz.

## 8. The one honest sentence

Everything so far fits into one sentence: how many questions, of which kind, both shares, the gain in points, its
paired interval, and whether that excludes 0. Write the function that says it; your `bootstrap_interval` may be called.
"""

# %% exercise="honest_sentence"

# %% [markdown]
r"""
**About your own run.** The next cell looks for your L09 run in `runs/l09` of this workspace. It reads the stored
answers of the base model and of your tuned model, *executes every query again*, and compares with the accuracy that
your `result.json` states. If you have not run L09, it takes this lesson's files (`zero-shot` against `step50`), and
says so.

Then a gate reads your sentence and recomputes each number from those rows, with scipy's bootstrap. It prints what it
refuses.
"""

# %%
from course.lessons.l18_statistics.own_run import has_own_run, own_rows
from course.lessons.l18_statistics.sentence import refusals

honest_sentence = use("honest_sentence")
if has_own_run():
    rows, before, after = own_rows(), "few-shot", "tuned"
    print("from your own L09 run:", len(rows), "scored answers, the same accuracy as in its result.json")
else:
    rows, before, after = as_table("zero-shot", "step50"), "zero-shot", "step50"
    print("NOT YOUR RUN: no finished L09 run in runs/l09, so these are the files of this lesson.")
said = honest_sentence(rows, before, after, "heldout")["sentence"]
print("\n" + said + "\n")
problems = refusals(said, rows, before, after, "heldout")
print("\n".join(problems) or "the gate: every number is what the results give")
assert not problems, "do not say this sentence"

# %% [markdown]
r"""
And does the gate see anything? Six ways in which such sentences go wrong:
"""

# %%
truth = honest_sentence(rows, before, after, "heldout")
seen = honest_sentence(rows, before, after, "seen")
relative = said.replace(f"of {abs(truth['gain']):.1f} points", "of 100.0 points")
alone = [{r["id"]: r["correct"] for r in rows if (r["way"], r["split"]) == (way, "heldout")} for way in (before, after)]
spread = 196 * np.std([float(alone[1][name]) - alone[0][name] for name in alone[0]], ddof=1)
deviation = f"[{truth['gain'] - spread:.1f}, {truth['gain'] + spread:.1f}]"
spoilt = {
    "seen questions as held-out": seen["sentence"].replace("seen questions", "held-out questions"),
    "percent for points": relative,
    "the deviation for the error": said.replace(f"[{truth['low']:.1f}, {truth['high']:.1f}]", deviation),
    "the wrong direction": said.replace("a gain of", "a loss of"),
    "another number of questions": said.replace("On ", "On 1", 1),
    "in other words": "Our model improved dramatically.",
}
for name, sentence in spoilt.items():
    found = refusals(sentence, rows, before, after, "heldout")
    assert found, f"the gate let {name} through"
    print(f"{name}: {found[0][:150]}")

# %% [markdown]
r"""
Keep the sentence. It is the line for your portfolio and for the interview, and you can answer for every number in it.

## Interview questions

<details><summary>Is the new model better, and how do you know?</summary>

Same questions for both; how many, and on what population the claim is. The gain in points with a paired interval, and
McNemar's exact p. How many comparisons were made (Holm). One training or a recipe: for a recipe, several seeds. Then
the slices, as hypotheses.
</details>

<details><summary>Two 95 % intervals overlap. Is the difference not significant?</summary>

It can be. Each interval holds the difficulty of the questions, which both runs share; the paired difference does not.
Look at the interval of the difference.
</details>

<details><summary>How large must a test set be to see +3 points?</summary>

From 40 %, at 80 % power and 5 % two-sided: 4,231 questions a run with separate questions. With the same questions it
depends on how often the runs disagree: at 12 % disagreement 1,045. Half the gain needs four times as many.
</details>

<details><summary>What is the difference between standard deviation and standard error?</summary>

The standard deviation says how far single answers scatter and does not shrink with N. The standard error says how far
the mean would move with other questions; it is the deviation over √N, if the questions are independent.
</details>

<details><summary>Your benchmark has 500 questions on 50 documents. What changes?</summary>

Questions of one document share their difficulty. Use the clustered standard error or draw documents in the bootstrap.
More documents help more than more questions on the same ones; with few clusters the formula itself is shaky.
</details>

<details><summary>A prompt sweep of eight found one significant at 0.03. What do you report?</summary>

All eight, with Holm-adjusted p-values: the best of eight at 0.03 becomes 0.24. If it looks promising, test that one
again on fresh questions.
</details>

<details><summary>How do you show that fine-tuning did not make the model forget?</summary>

Not with p > 0.05. Fix the loss that matters, and show that the paired interval of the change lies above it. With 100
questions and a margin of 5 points that often cannot succeed, so plan N first.
</details>

<details><summary>0 of 120 right. What can you say about the true share?</summary>

The bootstrap says [0, 0], which is an artefact. By the rule of three every share below 2.5 % fits.
</details>

<details><summary>What do three seeds tell you, and what not?</summary>

Whether seeds matter at about the size of the gain. Not their spread to any precision: from three values the interval of
a standard deviation reaches from half of it to six times it.
</details>
"""

# %%
progress()

# %% [markdown]
r"""
## What you can now claim

- "I put paired intervals on every comparison, and my functions equal scipy's and lm-eval's."
- "I plan the number of questions before a run, and checked the formula by simulation."
- "I decided eight claims on real result files by one rule, and can say what a file would need to show them."
- Your sentence about L09: every number in it is recomputed from the artefacts.

Back: *L09, QLoRA, for real* (where the gain comes from); *L17, metrics and the harness* (where scores come from).
Forward: *L19, judges, contamination, failure analysis*.
"""
