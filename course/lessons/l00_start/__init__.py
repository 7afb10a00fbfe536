"""L00: the doctor, and a tour of the grader."""
