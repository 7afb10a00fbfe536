"""L17: metrics by hand equal to the libraries, the evaluation harness, and a tuned model measured with it."""
