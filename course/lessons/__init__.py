"""The lessons, one folder each: `lesson.py` (prose and demos) and one file per exercise."""
