"""The front door: takes OpenAI requests, picks a prefill and a decode worker, relays the answer.

Only the modules that end in a socket talk; `routing/` decides without I/O and without a clock. Importing this
package loads neither torch nor triton.
"""
