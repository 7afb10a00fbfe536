"""Grades many submissions: learner code is called in sandboxes and judged here, in parallel, and nothing is lost."""
