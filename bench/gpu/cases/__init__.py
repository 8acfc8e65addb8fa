"""Cases of every kernel, built from shapes: tests give odd ones, the bench those of DeepSeek-R1."""
