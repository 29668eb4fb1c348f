"""geomrl: see and steer what RL from verifiable rewards does to a model's representations."""
