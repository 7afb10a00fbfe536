"""Two sources of luck: which questions were asked, and which seed trained the model.

Two-way random effects with one answer a cell (Searle, Casella and McCulloch 1992, ch. 4). Worked number: three seeds
with 20, 26 and 23 % on 100 questions: seed_sd is 3.0 points; the mean of three moves by 1.7 points for that alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l18-seed-variance",
    title="How much of it is the seed?",
    points=3,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("statistics", "reproducibility"),
    hints=(
        "Means along one axis are the seeds' shares, along the other each question's share over the seeds.",
        "Both sources shake the grand mean, so their variances add up. But the luck of single cells is in both: take "
        "it away once.",
        "A cell's residual is what neither its seed nor its question explains. Squared and added up, they say how "
        "large the luck of single cells is.",
    ),
    library_note="statsmodels' mixedlm or R's lme4 fit the same model and also cope with missing cells. Most papers "
    "report seed_sd only, over three to five seeds: an estimate that is itself uncertain by a third and more.",
    interview="Your fine-tune is two points better than last week's. How do you know that it is not the seed?",
)


@exercise.reference
def seed_variance(correct: np.ndarray) -> dict[str, float]:
    """Errors of the mean score of S trainings that differ in their seed, on the same N questions.

    correct: (S, N) float64 scores, S and N at least 2. Returns, as fractions of 1:
    - "mean": the grand mean;
    - "seed_sd": sample standard deviation (S - 1) of the S shares: how far one training lies from another;
    - "question_stderr": standard error of the mean over questions, from each question's mean over the seeds (N - 1);
    - "stderr": for other seeds and other questions: root of (question_stderr² + seed_sd² / S - cells / (S N)), or 0.0
      where the bracket is negative. cells: the variance of single cells, the sum of all squared residuals
      over (S - 1)(N - 1); a residual is cell - its seed's mean - its question's mean + grand mean.
    """
    seeds, questions = correct.shape
    by_seed, by_question, mean = correct.mean(axis=1), correct.mean(axis=0), correct.mean()
    residuals = correct - by_seed[:, None] - by_question[None, :] + mean
    cells = np.square(residuals).sum() / ((seeds - 1) * (questions - 1))
    from_questions, from_seeds = by_question.var(ddof=1) / questions, by_seed.var(ddof=1) / seeds
    variance = from_questions + from_seeds - cells / (seeds * questions)
    return {
        "mean": float(mean),
        "seed_sd": float(by_seed.std(ddof=1)),
        "question_stderr": float(np.sqrt(from_questions)),
        "stderr": float(np.sqrt(max(variance, 0.0))),
    }


def parts(correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Shares by seed, by question, and the variance of single cells."""
    by_seed, by_question = correct.mean(axis=1), correct.mean(axis=0)
    residuals = correct - by_seed[:, None] - by_question + correct.mean()
    return by_seed, by_question, float((residuals**2).sum() / ((correct.shape[0] - 1) * (correct.shape[1] - 1)))


ALL_SEEDS_HINT = (
    "seed_sd divides by S (numpy's default). With three seeds that makes the spread nearly a fifth too small."
)


def report(correct: np.ndarray, seed_sd: float, question_stderr: float, variance: float) -> dict[str, float]:
    return {
        "mean": float(correct.mean()),
        "seed_sd": float(seed_sd),
        "question_stderr": float(question_stderr),
        "stderr": float(max(variance, 0.0) ** 0.5),
    }


@exercise.alternative
def by_covariances(correct):
    """What two seeds share on the same questions, and what two questions share under the same seeds."""
    seeds, questions = correct.shape
    across = np.atleast_2d(np.cov(correct))  # (S, S) over questions
    along = np.atleast_2d(np.cov(correct.T))  # (N, N) over seeds
    of_questions = (across.sum() - np.trace(across)) / (seeds * (seeds - 1))
    of_seeds = (along.sum() - np.trace(along)) / (questions * (questions - 1))
    of_cells = np.trace(across) / seeds - of_questions
    variance = of_questions / questions + of_seeds / seeds + of_cells / (seeds * questions)
    shares = [row.mean() for row in correct]
    columns = [column.mean() for column in correct.T]
    return report(correct, np.std(shares, ddof=1), np.std(columns, ddof=1) / questions**0.5, variance)


@exercise.misconception(
    hint="All S · N answers are treated as independent. They are not: the same N questions were asked S times, and "
    "asking again brings no new question."
)
def cells_as_independent(correct):
    by_seed, by_question, _ = parts(correct)
    error = by_question.std(ddof=1) / correct.shape[1] ** 0.5
    return report(correct, by_seed.std(ddof=1), error, correct.var(ddof=1) / correct.size)


@exercise.misconception(
    hint="question_stderr counts every answer as a question of its own. A question asked S times is still one "
    "question: take its mean over the seeds, and there are N of them."
)
def every_answer_a_question(correct):
    by_seed, _, cells = parts(correct)
    error = correct.std(ddof=1) / correct.size**0.5
    variance = error**2 + by_seed.var(ddof=1) / len(by_seed) - cells / correct.size
    return report(correct, by_seed.std(ddof=1), error, variance)


@exercise.misconception(hint=ALL_SEEDS_HINT)
def divided_by_all_seeds(correct):
    by_seed, by_question, cells = parts(correct)
    seeds, questions = correct.shape
    variance = by_question.var(ddof=1) / questions + by_seed.var() / seeds - cells / correct.size
    return report(correct, by_seed.std(), by_question.std(ddof=1) / questions**0.5, variance)


@exercise.misconception(hint=ALL_SEEDS_HINT)
def divided_by_all_seeds_in_seed_sd_alone(correct):
    by_seed, by_question, cells = parts(correct)
    seeds, questions = correct.shape
    variance = by_question.var(ddof=1) / questions + by_seed.var(ddof=1) / seeds - cells / correct.size
    return report(correct, by_seed.std(), by_question.std(ddof=1) / questions**0.5, variance)


@exercise.misconception(
    hint="stderr came out as nan: where the seeds lie closer together than the luck of single cells would have them, "
    "the sum under the root is negative. The docstring says what to return then."
)
def root_of_a_negative_sum(correct):
    by_seed, by_question, cells = parts(correct)
    from_questions = by_question.var(ddof=1) / correct.shape[1]
    variance = from_questions + by_seed.var(ddof=1) / len(by_seed) - cells / correct.size
    found = report(correct, by_seed.std(ddof=1), from_questions**0.5, variance)
    return found | {"stderr": found["stderr"] if variance >= 0 else float("nan")}


@exercise.misconception(
    hint="A negative sum under the root became positive in yours, and so an error out of nothing: where luck evens "
    "out, the estimate of the variance is no more than 0. The docstring says what to return then."
)
def negative_sum_made_positive(correct):
    by_seed, by_question, cells = parts(correct)
    from_questions = by_question.var(ddof=1) / correct.shape[1]
    variance = from_questions + by_seed.var(ddof=1) / len(by_seed) - cells / correct.size
    return report(correct, by_seed.std(ddof=1), from_questions**0.5, abs(variance))


@exercise.misconception(
    hint="Your residuals do not scatter around 0. The seed's mean and the question's mean both hold the grand mean, so "
    "it is taken away twice: add it back once."
)
def grand_mean_taken_away_twice(correct):
    by_seed, by_question, _ = parts(correct)
    seeds, questions = correct.shape
    residuals = correct - by_seed[:, None] - by_question
    cells = (residuals**2).sum() / ((seeds - 1) * (questions - 1))
    from_questions = by_question.var(ddof=1) / questions
    variance = from_questions + by_seed.var(ddof=1) / seeds - cells / correct.size
    return report(correct, by_seed.std(ddof=1), from_questions**0.5, variance)


@exercise.misconception(
    hint="stderr is that of the questions alone. It says how the score would move with other questions for these very "
    "trainings, and nothing about training again."
)
def questions_only(correct):
    by_seed, by_question, _ = parts(correct)
    error = by_question.std(ddof=1) / correct.shape[1] ** 0.5
    return report(correct, by_seed.std(ddof=1), error, error**2)


@exercise.misconception(
    hint="stderr is that of the seeds alone. It says how the score would move with other seeds on these very "
    "questions; other questions move it, too."
)
def seeds_only(correct):
    by_seed, by_question, _ = parts(correct)
    error = by_question.std(ddof=1) / correct.shape[1] ** 0.5
    return report(correct, by_seed.std(ddof=1), error, by_seed.var(ddof=1) / len(by_seed))


@exercise.misconception(
    hint="The luck of single cells is counted twice, once among the seeds and once among the questions. Take it away "
    "once."
)
def cells_counted_twice(correct):
    by_seed, by_question, _ = parts(correct)
    from_questions = by_question.var(ddof=1) / correct.shape[1]
    variance = from_questions + by_seed.var(ddof=1) / len(by_seed)
    return report(correct, by_seed.std(ddof=1), from_questions**0.5, variance)


@exercise.misconception(
    hint="seed_sd² enters whole. The mean of S trainings moves less than one training does: divide the variance by S."
)
def spread_of_one_training(correct):
    by_seed, by_question, cells = parts(correct)
    from_questions = by_question.var(ddof=1) / correct.shape[1]
    variance = from_questions + by_seed.var(ddof=1) - cells / correct.size
    return report(correct, by_seed.std(ddof=1), from_questions**0.5, variance)


@exercise.misconception(
    hint="Rows and columns are exchanged: a row is one training on all questions, a column one question under all "
    "seeds."
)
def axes_exchanged(correct):
    by_question, by_seed, cells = parts(correct.T)
    by_seed, by_question = by_question, by_seed
    seeds = len(by_question)
    variance = by_seed.var(ddof=1) / len(by_seed) + by_question.var(ddof=1) / seeds - cells / correct.size
    return report(correct, by_seed.std(ddof=1), by_question.std(ddof=1) / seeds**0.5, variance)


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = np.random.default_rng([seed, 186])

    def answers(seeds: int, questions: int, seed_effect: float) -> dict:
        """Questions differ much, seeds by `seed_effect` (on the scale of a logistic model)."""
        strength = random.normal(0, 1.5, questions) + random.normal(0, seed_effect, (seeds, 1))
        drawn = (random.random((seeds, questions)) < 1 / (1 + np.exp(-strength))).astype(float)
        drawn[0, 0], drawn[1, 0], drawn[0, 1], drawn[1, 1] = 0.0, 1.0, 1.0, 1.0
        return {"correct": drawn}

    yield Case("three seeds", answers(3, 40, 0.5), "with three seeds")
    yield Case("two seeds", answers(2, 25, 1.0), "with two seeds")
    first = np.repeat([1.0, 0.0, 1.0, 0.0], [8, 8, 2, 2])
    second = np.repeat([0.0, 1.0, 1.0, 0.0], [8, 8, 2, 2])  # as many right, and mostly other questions
    even = np.stack([first, second])[:, random.permutation(20)]
    yield Case("even", {"correct": even}, "when the seeds come out more even than luck would have them")
    yield Case("many seeds", answers(9, 30, 0.3), "with nine seeds", visible=False)
    partial = answers(4, 20, 0.6)
    yield Case("partial", {"correct": partial["correct"] * 0.75 + 0.125}, "with parts of a point", visible=False)
    yield Case("drawn", answers(int(random.integers(3, 7)), int(random.integers(20, 60)), 0.8), "", visible=False)


@exercise.oracle
def oracle(correct):
    """The three variances estimated pair by pair, from their definition; no mean squares."""
    seeds, questions = correct.shape
    half_square: dict[str, list[float]] = {"seed": [], "question": [], "cell": []}
    for s, t in combinations(range(seeds), 2):
        gap = correct[s] - correct[t]  # (N,): the seeds' difference on each question
        i, j = np.triu_indices(questions, 1)
        half_square["cell"].append(((gap[i] - gap[j]) ** 2 / 4).mean())
        half_square["seed"].append((gap[i] * gap[j]).mean() / 2)
        first, second = correct[s][i] - correct[s][j], correct[t][i] - correct[t][j]
        half_square["question"].append((first * second).mean() / 2)
    of_seeds, of_questions, of_cells = (np.mean(half_square[key]) for key in ("seed", "question", "cell"))
    variance = of_questions / questions + of_seeds / seeds + of_cells / (seeds * questions)
    return {
        "mean": float(correct.sum() / correct.size),
        "seed_sd": float(np.std(correct.mean(axis=1), ddof=1)),
        "question_stderr": float(np.std(correct.mean(axis=0), ddof=1) / np.sqrt(questions)),
        "stderr": float(np.sqrt(max(variance, 0.0))),
    }
