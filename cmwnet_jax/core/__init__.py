"""What users compose: steps, objectives, weight nets. Imports nothing of this package but errors."""
