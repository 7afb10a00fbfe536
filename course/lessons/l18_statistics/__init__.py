"""Statistics for evals: intervals, paired tests, sample sizes and the sentence that may be said."""
