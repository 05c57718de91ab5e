"""The suites that ship, one YAML file each."""
