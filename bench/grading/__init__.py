"""This grader beside nbgrader's autograde and `otter run`, on the same submissions: python -m bench.grading

Every figure is of whole commands as their users run them, start-up included, and ours with its sandbox on. The learners
are honest: right answers in two forms, known mistakes, untouched stubs and answers that raise. All graders must give
every one of them the same points per exercise; a difference stops the run.

The peers grade one submission after another and are slow, so they are measured on a few (`--peer-submissions`) and the
time for more is extrapolated: start-up plus the mean time of one submission times their number. The output says so.

Why here and not in the grader's package: the assignments import torch as they load, which the grader never does, and
the peers' tests and environments are no part of what is installed.
"""
