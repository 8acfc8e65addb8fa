"""The tenant file is read strictly, and a mistake is told with its file and place."""

from pathlib import Path

import pytest

from baton.proxy.config import ConfigError
from baton.proxy.tenant_file import read_tenant_file

GOOD = """
anonymous: guest
tenants:
  guest: {priority: -1}
  acme: {weight: 3, highest_priority: 5}
keys:
  - {sha256: "%s", tenant: acme, priority: 2}
""" % ("ab" * 32)


def test_a_good_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "tenants.yaml"
    path.write_text(GOOD)

    config = read_tenant_file(path)
    assert config.anonymous == "guest"
    assert config.tenants["acme"].weight == 3.0
    assert config.keys[0].priority == 2


@pytest.mark.parametrize(
    ("wrong", "right", "message"),
    [
        ("tenants:", "tenant:", "unknown field `tenant`|missing required field `tenants`"),
        ("weight: 3", "weight: 0", r"weight|\$\.tenants"),
        ("tenant: acme", "tenant: nobody", r"keys\[0\]\.tenant"),
        ("anonymous: guest", "anonymous: [", "not YAML"),
    ],
)
def test_a_mistake_is_told_with_its_place(tmp_path: Path, wrong: str, right: str, message: str) -> None:
    path = tmp_path / "tenants.yaml"
    path.write_text(GOOD.replace(wrong, right))

    with pytest.raises(ConfigError, match=message) as error:
        read_tenant_file(path)
    assert str(error.value).startswith(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file"):
        read_tenant_file(tmp_path / "none.yaml")
