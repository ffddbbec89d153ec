"""Tables and figures from run folders alone; JAX is never imported here."""
