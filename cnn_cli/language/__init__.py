"""The language: YAML to specs, and specs to plans. No torch."""
