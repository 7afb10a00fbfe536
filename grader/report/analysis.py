"""Everything a report says, as plain data; the tables and the page are made from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grader.report.clusters import Cluster, Sources, cluster
from grader.report.items import Item, analyse
from grader.report.read import Cohort
from grader.report.similarity import Pair, find_pairs
from grader.report.timing import ExerciseTiming, exercise_timing


@dataclass(frozen=True)
class Submitted:
    """What the submitted files add to the results.

    sources: learner -> exercise id -> source. known: exercise id -> sources everybody has. tries: (learner, exercise
    id) -> failed attempts at the desk, as far as learners handed in their progress. notes: on files left out.
    """

    sources: Sources
    known: Mapping[str, tuple[str, ...]]
    tries: Mapping[tuple[str, str], int]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Report:
    """One lesson of one cohort. pairs: None when the submissions were not at hand."""

    title: str
    cohort: Cohort
    items: tuple[Item, ...]
    clusters: tuple[Cluster, ...]
    pairs: tuple[Pair, ...] | None
    timing: tuple[ExerciseTiming, ...]
    tries: Mapping[tuple[str, str], int]
    notes: tuple[str, ...]


def make_report(cohort: Cohort, title: str, submitted: Submitted | None = None) -> Report:
    """Analyse a cohort. submitted: None leaves out sources, similarity and tries."""
    results = cohort.graded
    tries = submitted.tries if submitted else {}
    pairs = None
    if submitted is not None:
        outcomes = {(each.learner, one.exercise_id): one.outcome for each in results for one in each.results}
        pairs = find_pairs(submitted.sources, submitted.known, outcomes)
    return Report(
        title,
        cohort,
        analyse(results, tries),
        cluster(results, submitted.sources if submitted else None),
        pairs,
        exercise_timing(results),
        tries,
        (*_warnings(cohort), *(submitted.notes if submitted else ())),
    )


def _warnings(cohort: Cohort) -> list[str]:
    found = []
    if len(cohort.versions) > 1:
        found.append(
            f"The results are of {len(cohort.versions)} versions of the checks or seeds, so they do not compare: "
            "outcomes that are the same look different. Run `grader grade` again: it grades anew what is out of date."
        )
    found += [f"{each.name} was passed over: {each.reason}" for each in cohort.refused]
    found += [f"{each.learner}: {each.problem}" for each in cohort.ungraded]
    found += [f"{each.learner}: {repair}" for each in cohort.results for repair in each.repairs]
    return found
