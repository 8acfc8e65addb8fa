"""The engine beside vLLM's CPU build: the same checkpoints, the same client, rounds by turns.

__main__   what to run, from flags
peer       vLLM's CPU build from PyPI, in an environment of its own
servers    starts workers of both kinds; stops and continues their processes
rounds     a process of its own: drives the servers by turns, one measured while the others stand still
workload   what is asked of a server, and the speed it showed
profile    where a step's time goes, from samples of the engine's stack
table      figures to tables and a verdict
"""
