"""What commands read and import before they do what was asked."""

from cnn_cli.language.registry import load_registry, shipped
from cnn_cli.language.spec import used_blocks


def test_a_shipped_network_is_read_without_the_others() -> None:
    """Every node at the same place, and every block that it needs."""
    registry, everything = load_registry(), shipped().networks
    for name, spec in everything.items():
        alone = registry[name]
        assert (alone.node, alone.problems) == (spec.node, spec.problems), name
        assert used_blocks(alone) == used_blocks(spec), name
    assert [*registry] == [*everything] and len(registry) == len(everything)
