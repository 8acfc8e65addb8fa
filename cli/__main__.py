"""`python -m baton.cli`: the `baton` command without its launcher script."""

from .main import main

main()
