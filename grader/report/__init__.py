"""What a graded cohort shows: which exercise and which wrong idea the class is stuck on, as tables and as one page."""
