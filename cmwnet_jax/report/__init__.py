"""Tables and figures, made from run folders only; JAX is never imported here."""
