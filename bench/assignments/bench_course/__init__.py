"""Two small assignments for measuring graders: a light one, and a heavy one that imports peft and bitsandbytes."""

from __future__ import annotations

from pathlib import Path

from grader.syllabus import Course, Lesson, Module

COURSE = Course(
    title="Assignments for measuring",
    lessons_package=f"{__name__}.lessons",
    modules=(
        Module(
            "Both",
            (
                Lesson("l01_light", "Parts of a Llama", minutes=30, run_minutes=0.2),
                Lesson("l02_heavy", "Adapters and 4-bit weights", minutes=30, run_minutes=0.3),
            ),
        ),
    ),
    skills={"transformer": "write the parts of a Llama", "adapters": "build, merge and train low-rank adapters"},
    root=Path(__file__).resolve().parent.parent,
)
