"""A safe loader of YAML that parses in C where PyYAML has libyaml, six times as fast.

PyYAML's own `CSafeLoader` composes the nodes in C, too, where deep nesting ends the process. Here they are composed in
Python, where it is a `RecursionError`.
"""

import yaml
from yaml.composer import Composer
from yaml.constructor import SafeConstructor
from yaml.resolver import Resolver

if yaml.__with_libyaml__:
    from yaml.cyaml import CParser  # type: ignore[attr-defined]

    class SafeLoader(Composer, CParser, SafeConstructor, Resolver):
        """Reads one document of plain values."""

        def __init__(self, stream: str) -> None:
            CParser.__init__(self, stream)
            for part in (Composer, SafeConstructor, Resolver):
                part.__init__(self)

else:
    from yaml import SafeLoader  # type: ignore[assignment]  # noqa: F401
