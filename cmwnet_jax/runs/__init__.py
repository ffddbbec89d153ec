"""Run folders on disk: names, contents and checks of their files; does not import JAX."""
