"""One process of several: `python -m baton.proxy.siblings --config FILE --index N --folder DIR`.

`FILE` is a `ProxyConfig` as JSON. Standard input is the supervisor's: its end means to drain.
"""

import argparse
from pathlib import Path

import msgspec

from ..config import ProxyConfig
from ..server import run_proxy
from .place import Place


def main() -> None:
    """Serve until told to drain."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    options = parser.parse_args()
    config = msgspec.json.decode(options.config.read_bytes(), type=ProxyConfig)
    place = Place(index=options.index, count=config.processes, folder=options.folder)
    run_proxy(config, place)


if __name__ == "__main__":
    main()
