"""Checkpoints in Hugging Face format: files are checked when opened, tensors are read one at a time."""
