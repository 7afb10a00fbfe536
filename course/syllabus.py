"""What is taught, in which order, and the skills it builds."""

from __future__ import annotations

from pathlib import Path

from course.cpu_bfloat16 import cpu_bfloat16_usable
from grader.syllabus import Course, Lesson, Module

SKILLS = {
    "grader": "take an exercise from stub to passed, and read what a failed check says",
    "environment": "find out what a machine can do: device, precision, memory, versions",
    "reproducibility": "make a training run repeat exactly: seeds, generators, data order",
    "memory": "estimate what a model, its gradients and its optimizer need before running out",
    "pytorch": "write and debug modules, autograd and optimizers in PyTorch",
    "lora": "build, inject, save, merge and debug low-rank adapters",
    "quantisation": "store weights in 8 and 4 bits and know what it costs",
    "qlora": "fine-tune a 4-bit model with adapters",
    "peft": "read and write what the peft library reads and writes",
    "evaluation": "measure a model before and after a change, with an interval",
}

COURSE = Course(
    title="Fine-tune LLMs",
    lessons_package="course.lessons",
    root=Path(__file__).resolve().parent.parent,
    skills=SKILLS,
    prepare=cpu_bfloat16_usable,
    modules=(
        Module(
            "Start and fundamentals",
            (Lesson("l00_start", "Doctor and a tour of the grader", minutes=45, run_minutes=1),),
        ),
        Module(
            "Fine-tuning",
            (
                Lesson("l07_lora", "LoRA from scratch", minutes=150, run_minutes=6, needs=("l00_start",)),
                Lesson("l09_qlora", "QLoRA, for real", minutes=200, run_minutes=25, needs=("l07_lora",)),
            ),
        ),
    ),
)
