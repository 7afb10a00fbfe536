"""One folder per assignment."""
