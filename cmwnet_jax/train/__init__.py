"""The launcher: a config in, a run's folder out."""
