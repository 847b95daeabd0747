"""Train what a plan says: prepare a run, train its stages, choose one, prove the outcome and save it, or resume."""
