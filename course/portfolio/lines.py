"""Draft lines for a résumé: templates filled with numbers that the artefacts give. No artefact, no line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from course.evaluation.summary import Share
from course.portfolio.findings import Comparison, Findings, Record, Source

SPLIT_WORDS = {"seen": "schemas seen in training", "heldout": "schemas never seen in training"}
NF4 = "NF4, double quantised"


@dataclass(frozen=True)
class Line:
    """One sentence, and the files that its numbers come from."""

    text: str
    sources: tuple[Source, ...]


def draft_lines(found: Findings) -> list[Line]:
    """Every line that the artefacts carry."""
    lines = [line for each in found.comparisons for line in _of_comparison(each)]
    lines += [_of_training(each) for each in found.trainings]
    if record := found.records.get("l07_lora"):
        lines.append(_of_lora(record))
    if record := found.records.get("l08_quantisation"):
        lines += _of_formats(record)
    if found.passed:
        exercises = "exercise that is" if found.exercises == 1 else "exercises that are"
        lines.append(
            Line(
                f"Passed {found.passed} of {found.exercises} {exercises} checked against production libraries "
                f"(PyTorch, transformers, peft, bitsandbytes and others).",
                found.progress,
            )
        )
    return lines


def worded(change: Share, baseline: str) -> str:
    """A change with its paired interval; one whose interval includes zero is no measured difference."""
    if change.low is None or change.high is None:
        return f"no measured difference from {baseline}: {change.items} question gives no interval"
    interval = f"95 % paired interval {change.low:+.1f} to {change.high:+.1f} points"
    if not change.excludes_zero:
        return f"no measured difference from {baseline} ({interval}, which includes zero)"
    kind = "gain" if change.percent > 0 else "loss"
    return f"a {kind} of {abs(change.percent):.1f} points against {baseline} ({interval})"


def _of_comparison(each: Comparison) -> Iterator[Line]:
    if each.lesson == "l09_qlora":
        for row in each.slices["split"]:
            tuned, shot, change = row.shares["tuned"], row.shares["few-shot"], row.change
            assert change is not None, "several runs were compared"
            yield Line(
                f"Fine-tuned {each.model} with QLoRA on text-to-SQL: {tuned.percent:.1f} % of {tuned.items} "
                f"hand-written questions on {SPLIT_WORDS.get(row.label, row.label)} answered right when executed, "
                f"{shot.percent:.1f} % few-shot before; {worded(change, 'few-shot prompting')}.",
                each.sources,
            )
        return
    before, after, change = each.overall.shares["before"], each.overall.shares["after"], each.overall.change
    assert change is not None, "two runs were compared"
    yield Line(
        f"Evaluated {each.model} through lm-eval before and after fine-tuning: {after.percent:.1f} % of {after.items} "
        f"{each.task} items right, {before.percent:.1f} % before; {worded(change, 'the base model')}.",
        each.sources,
    )


def _of_training(run: Record) -> Line:
    data = run.data
    return Line(
        f"Trained {data['trainable_parameters']:,} adapter parameters of {data['model']} on {data['tokens']:,} tokens "
        f"in {data['seconds']:.1f} s ({data['tokens'] / data['seconds']:.0f} tokens/s), peak memory "
        f"{data['peak_memory_bytes'] / 1e9:.2f} GB.",
        run.sources,
    )


def _of_lora(record: Record) -> Line:
    data = record.data
    gain = data["gain"]
    change = Share(data["questions"], gain["points"], gain["low"], gain["high"])
    share = 100 * data["trainable_parameters"] / data["parameters"]
    return Line(
        f"Trained {share:.1f} % of {data['model']}'s parameters through LoRA layers made without the peft library: "
        f"{data['right_after']} of {data['questions']} text-to-SQL questions right, {data['right_before']} before; "
        f"{worded(change, 'the base model')}.",
        record.sources,
    )


def _of_formats(record: Record) -> Iterator[Line]:
    for row in record.data["formats"]:
        if row["format"] == NF4:
            yield Line(
                f"Measured 4-bit quantisation (NF4, double quantised) of a language model: {row['bits']:.2f} bits a "
                f"weight in its linear layers, {row['megabytes']:.0f} MB, loss {row['loss']:.3f} against "
                f"{record.data['loss_unquantised']:.3f} unquantised, the same next token in "
                f"{100 * row['same_token']:.1f} % of {record.data['tokens']:,} places.",
                record.sources,
            )
