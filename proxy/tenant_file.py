"""The YAML file of tenants and API keys.

anonymous: guest              # absent: a key is required
tenants:
  guest: {priority: -1, queued_requests: 20}
  acme: {weight: 3, highest_priority: 5}
keys:
  - {sha256: "9f86d081...", tenant: acme}          # printf %s KEY | sha256sum
  - {sha256: "60303ae2...", tenant: acme, priority: -5}
"""

from pathlib import Path

import msgspec
import yaml

from .config import ConfigError
from .routing.tenants import TenantsConfig


def read_tenant_file(path: Path) -> TenantsConfig:
    """Return what a file says. Raises `ConfigError`, which names the file and the bad key."""
    try:
        return msgspec.convert(yaml.safe_load(path.read_text()), TenantsConfig)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    except msgspec.ValidationError as error:
        raise ConfigError(f"{path}: {error}") from error
