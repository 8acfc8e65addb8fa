"""What the settings of all policies have in common."""

import msgspec


class PolicyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="policy"):
    """Settings of a policy; a subclass for each, tagged with its name."""
