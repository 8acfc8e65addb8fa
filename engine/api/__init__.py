"""The OpenAI worker API: HTTP, validation, streaming, metrics."""
