"""Adapters handed in beside a notebook: read as data, put on the base model by our code, graded on hidden questions."""
