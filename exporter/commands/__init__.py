"""The verbs of the ``frcnn`` command that need the exporter."""
