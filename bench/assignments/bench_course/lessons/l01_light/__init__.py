"""Five exercises on torch and transformers."""
