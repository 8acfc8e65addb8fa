"""Captured steps: a step of a fixed shape is launched as one graph, so that Python is out of its way.

backend     what captures: CUDA graphs, or a rehearsal on a CPU that breaks off where a graph could not follow
decode      one graph a decode batch size
prefill     graphs of what lies between the attentions of a prompt chunk, for a few sizes
model       a model that replays where it can and computes eagerly where it cannot
"""
