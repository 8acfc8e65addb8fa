"""The prefill half: computes prompts at high throughput and offers their KV blocks under leases."""
