"""Learning tasks beside plain classification: each module builds an `Objective`, none has a loop."""
