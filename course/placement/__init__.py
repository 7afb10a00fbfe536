"""Ten questions that suggest where to start, and what may be skipped."""
