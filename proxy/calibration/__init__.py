"""The simulator's engine model, fitted to running workers.

`baton simulate calibrate` calls `console.run_calibration`. Only `client.py` talks to anyone.

plan.py      what to ask: prompts of many lengths alone, then batches of decoding streams
answer.py    one streamed answer: when each token came, and what the workers told of its phases
batches.py   decode steps, seen from outside: the time between tokens while several streams decode together
fit.py       least squares of relative errors, no coefficient below 0
model_fit.py an engine model out of the answers, and how far off it is
client.py    asks, and times
check.py     a small load that was not fitted to: measured, and simulated with the fit
console.py   what the command line asks for, the file it writes and the text it prints
"""
