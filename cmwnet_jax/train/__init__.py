"""The launcher: trains a config and writes a run's folder."""
