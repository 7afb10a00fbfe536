"""What is taught: lessons, the base model, data and the training toolkit. No grading machinery."""
