"""The demo model: its world, its tokenizer, its training, its export and its exam.

`python -m baton.tools.demo.train` makes a checkpoint, `...export` turns it into a Hugging Face folder,
`...evaluate` asks it fresh questions, in process or through a server.
"""
