"""The decode half: pulls KV blocks and streams tokens at low latency."""
