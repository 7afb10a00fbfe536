"""Learner code behind a wall: a warm parent forks one sandboxed child per submission, which calls and never judges."""
