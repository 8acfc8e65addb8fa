"""The openai client, unmodified, gets what it asks for: both APIs, whole and streamed."""
