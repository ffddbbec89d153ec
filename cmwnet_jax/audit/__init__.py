"""Finds training labels that are probably wrong, from the folders of finished runs; needs no JAX.

`examples` reads what runs leave about each training example, `scores` ranks the examples, `estimate` says how
many labels are wrong, `suspects` makes the table; `export` and `gallery` write it.
"""

from cmwnet_jax.errors import need

need("launch", "PIL", "absl", "pyarrow")
