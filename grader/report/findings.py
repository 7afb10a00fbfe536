"""Where to look first: a few sentences drawn from a report, for the top of the page and for the terminal."""

from __future__ import annotations

import textwrap

from grader.report.analysis import Report

WEAK_DISCRIMINATION = 0.2
MANY_NOT_STARTED = 1 / 3
LONGEST_SENTENCE = 160


def findings(report: Report) -> list[str]:
    """At most one sentence of a kind, but for broken exercises, which are all told."""
    items, count = report.items, len(report.cohort.graded)
    found = [f"{item.title} is broken: `grader verify` says why." for item in items if item.counts["broken"]]
    rated = [item for item in items if item.pass_rate is not None and item.pass_rate < 1]
    if rated:
        hardest = min(rated, key=lambda item: item.pass_rate or 0.0)
        found.append(f"Hardest: {hardest.title}, passed by {hardest.counts['passed']} of {count}.")
    unnamed = [each for each in report.clusters if each.kind == "unnamed" and len(each.learners) > 1]
    if unnamed:
        most = unnamed[0]
        found.append(f"Largest idea without a name: {len(most.learners)} learners, {most.title}: {most.headline}")
    named = [(each.learners, each.name, item.title) for item in items for each in item.misconceptions]
    if named and max(named)[0]:
        learners, name, title = max(named)
        found.append(f"Commonest named mistake: {name} in {title}, {learners} learners.")
    skipped = [item for item in items if item.counts["todo"] > MANY_NOT_STARTED * count]
    if skipped:
        most_skipped = max(skipped, key=lambda item: item.counts["todo"])
        found.append(f"Often not started: {most_skipped.title}, by {most_skipped.counts['todo']} of {count}.")
    known = [(item.discrimination, item.title) for item in items if item.discrimination is not None]
    if known and min(known)[0] < WEAK_DISCRIMINATION:
        figure, title = min(known)
        found.append(f"Hardly tells learners apart: {title}, discrimination {figure:.2f}.")
    return [textwrap.shorten(sentence, LONGEST_SENTENCE, placeholder=" ...") for sentence in found]
