"""The standard error of a mean score, for independent questions and for questions that come in clusters.

The first is lm-eval's `acc_stderr`. The second is the cluster-robust one (Liang and Zeger 1986, with the usual
G / (G - 1)); Miller 2024, "Adding Error Bars to Evals", section 2.2, uses it for questions that share a text.
Worked number: 60 of 80 right is 75 % with 4.9 points. If the 80 come in 10 groups that are right or wrong together,
the clustered one is about 14 points.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from grader.exercise import Case, Exercise

exercise = Exercise(
    id="l18-clustered-stderr",
    title="The standard error, with and without clusters",
    points=2,
    minutes=15,
    difficulty="medium",
    importance="core",
    skills=("statistics", "evaluation"),
    hints=(
        "Both start from the same residuals: each score minus the mean of all scores.",
        "For the clustered one, add up the residuals of each cluster first and square afterwards.",
        "Put every question into a cluster of its own: the two numbers must then be equal.",
    ),
    forbidden=("lm_eval.api.metrics.mean_stderr", "scipy.stats.sem"),
    library_note="lm-eval's acc_stderr is the first number and nothing else: it never knows which questions belong "
    "together. statsmodels gives the second one as OLS on a constant with cov_type='cluster'. With few clusters (under "
    "some 20) it is itself rough, and usually too small.",
    interview="Your benchmark has 500 questions on 50 documents. What is wrong with the usual standard error?",
)


@exercise.reference
def clustered_stderr(scores: np.ndarray, clusters: list[str]) -> dict[str, float]:
    """Two standard errors of the mean score: {"independent": ..., "clustered": ...}.

    scores: (N,) float64, one a question (0 and 1, or parts of 1). clusters: N names, of at least two clusters; equal
    names belong together, in any order. With e = score - mean of all scores:
    - independent: sample standard deviation (divided by N - 1) over the square root of N;
    - clustered: root of (G / (G - 1) · sum over clusters of (sum of e in the cluster)²), divided by N; G clusters.
    """
    residuals = scores - scores.mean()
    names = sorted(set(clusters))
    totals = np.array([residuals[[each == name for each in clusters]].sum() for name in names])
    groups = len(names)
    return {
        "independent": float(scores.std(ddof=1) / np.sqrt(len(scores))),
        "clustered": float(np.sqrt(groups / (groups - 1) * np.square(totals).sum()) / len(scores)),
    }


def independent(scores: np.ndarray) -> float:
    return float(np.std(scores, ddof=1) / len(scores) ** 0.5)


def cluster_sums(values: np.ndarray, clusters: list[str]) -> np.ndarray:
    """The sum of the values in each cluster."""
    _, places = np.unique(clusters, return_inverse=True)
    return np.bincount(places, weights=values)


def cluster_means(values: np.ndarray, clusters: list[str]) -> np.ndarray:
    """The mean of the values in each cluster."""
    return cluster_sums(values, clusters) / cluster_sums(np.ones(len(values)), clusters)


def sandwich(sums: np.ndarray, count: int) -> float:
    return float((len(sums) / (len(sums) - 1) * (sums**2).sum()) ** 0.5 / count)


NEIGHBOURS_HINT = (
    "Only neighbours are added up: a cluster whose questions do not stand side by side falls into pieces. Equal "
    "names belong together wherever they stand."
)
MEANS_HINT = (
    "You take the mean of each cluster's residuals. The sum is asked for: with the mean a cluster of two questions "
    "weighs as much as one of twenty, which moves the mean of all scores far more."
)


@exercise.alternative
def pairs_within_clusters(scores, clusters):
    """Every pair of questions of one cluster adds the product of its residuals."""
    count, groups = len(scores), len(set(clusters))
    mean = sum(scores.tolist()) / count
    together = variance = 0.0
    for i in range(count):
        variance += (scores[i] - mean) ** 2
        for j in range(count):
            if clusters[i] == clusters[j]:
                together += (scores[i] - mean) * (scores[j] - mean)
    return {
        "independent": (variance / (count - 1) / count) ** 0.5,
        "clustered": (groups / (groups - 1) * together) ** 0.5 / count,
    }


@exercise.misconception(
    hint="These are standard deviations: how far single scores lie apart. The standard error, how far the mean would "
    "move, divides by a root of the number of questions."
)
def deviation_instead_of_error(scores, clusters):
    root = len(scores) ** 0.5
    return {
        "independent": float(np.std(scores, ddof=1)),
        "clustered": root * sandwich(cluster_sums(scores - scores.mean(), clusters), len(scores)),
    }


@exercise.misconception(
    hint="One is taken away twice: the deviation divides by N - 1 already, so the root is taken of N, not of N - 1."
)
def one_less_twice(scores, clusters):
    right = sandwich(cluster_sums(scores - scores.mean(), clusters), len(scores))
    return {"independent": float(np.std(scores, ddof=1) / (len(scores) - 1) ** 0.5), "clustered": right}


@exercise.misconception(
    hint="The deviation divides by N (numpy's default). The mean was estimated from the same scores, so a sample's "
    "deviation divides by one less; lm-eval does."
)
def divided_by_all(scores, clusters):
    right = sandwich(cluster_sums(scores - scores.mean(), clusters), len(scores))
    return {"independent": float(np.std(scores) / len(scores) ** 0.5), "clustered": right}


@exercise.misconception(
    hint="Both numbers are the same: the clusters change nothing in yours. Questions of one cluster share what makes "
    "them hard, and their residuals must be added up before they are squared."
)
def clusters_ignored(scores, clusters):
    return {"independent": independent(scores), "clustered": independent(scores)}


@exercise.misconception(
    hint="You treat the clusters' means as the sample. That weighs a cluster of two questions like one of twenty, and "
    "is the error of another mean."
)
def means_of_clusters(scores, clusters):
    return {"independent": independent(scores), "clustered": independent(cluster_means(scores, clusters))}


def neighbours(clusters: list[str]) -> list[str]:
    """A name for each run of equal neighbours."""
    return np.cumsum([0, *(name != before for before, name in pairwise(clusters))]).astype(str).tolist()


@exercise.misconception(hint=NEIGHBOURS_HINT)
def only_neighbours_together(scores, clusters):
    groups = len(set(clusters))
    squares = cluster_sums(scores - scores.mean(), neighbours(clusters)) ** 2
    return {
        "independent": independent(scores),
        "clustered": float((groups / (groups - 1) * squares.sum()) ** 0.5 / len(scores)),
    }


@exercise.misconception(hint=NEIGHBOURS_HINT)
def runs_of_neighbours_as_clusters(scores, clusters):
    sums = cluster_sums(scores - scores.mean(), neighbours(clusters))
    return {"independent": independent(scores), "clustered": sandwich(sums, len(scores))}


@exercise.misconception(hint=MEANS_HINT)
def mean_residuals_over_all_questions(scores, clusters):
    means = cluster_means(scores - scores.mean(), clusters)
    return {"independent": independent(scores), "clustered": sandwich(means, len(scores))}


@exercise.misconception(hint=MEANS_HINT)
def mean_residuals_over_all_clusters(scores, clusters):
    means = cluster_means(scores - scores.mean(), clusters)
    return {"independent": independent(scores), "clustered": sandwich(means, len(means))}


@exercise.misconception(
    hint="G / (G - 1) is missing. It does for the clusters what N - 1 does for single questions, and matters most when "
    "there are few of them."
)
def small_sample_factor_forgotten(scores, clusters):
    sums = cluster_sums(scores - scores.mean(), clusters)
    return {"independent": independent(scores), "clustered": float((sums**2).sum() ** 0.5 / len(scores))}


@exercise.misconception(
    hint="The scores themselves are summed, not their residuals. Take the mean of all scores away first."
)
def mean_not_taken_away(scores, clusters):
    return {"independent": independent(scores), "clustered": sandwich(cluster_sums(scores, clusters), len(scores))}


@exercise.misconception(
    hint="Residuals are squared before they are added up, so positive and negative ones of a cluster cannot meet. That "
    "is again the formula for independent questions."
)
def squared_too_early(scores, clusters):
    groups = len(set(clusters))
    squares = cluster_sums((scores - scores.mean()) ** 2, clusters)
    return {
        "independent": independent(scores),
        "clustered": float((groups / (groups - 1) * squares.sum()) ** 0.5 / len(scores)),
    }


@exercise.cases
def cases(seed: int) -> Iterator[Case]:
    random = np.random.default_rng([seed, 182])

    def clustered(count: int, groups: int) -> dict:
        """Scores whose difficulty is their cluster's, in mixed order, every cluster present."""
        places = np.concatenate([np.arange(groups), random.integers(0, groups, count - groups)])
        random.shuffle(places)
        shares = random.beta(0.4, 0.4, groups)
        scores = (random.random(count) < shares[places]).astype(float)
        scores[:2] = 0.0, 1.0  # never all alike
        return {"scores": scores, "clusters": [f"document {place}" for place in places]}

    yield Case("documents", clustered(60, 12), "with questions on 12 documents")
    alone = {"scores": np.array([1.0, 0, 0, 1, 1, 0, 1]), "clusters": list("abcdefg")}
    yield Case("alone", alone, "with one question a cluster")
    yield Case("two", clustered(30, 2), "with two clusters", visible=False)
    partial = clustered(45, 9)
    partial["scores"] = partial["scores"] * 0.5 + random.integers(0, 3, 45) / 4
    yield Case("partial", partial, "when answers earn parts of a point", visible=False)
    yield Case("drawn", clustered(int(random.integers(40, 90)), int(random.integers(5, 20))), "", visible=False)


@exercise.oracle
def oracle(scores, clusters):
    """lm-eval's own formula, on the scores and on what each cluster adds to the mean (linearised, Cochran 1977)."""
    from lm_eval.api.metrics import mean_stderr

    sums = cluster_sums(scores - scores.mean(), clusters)
    return {
        "independent": float(mean_stderr(scores.tolist())),
        "clustered": float(mean_stderr((sums * len(sums) / len(scores)).tolist())),
    }
