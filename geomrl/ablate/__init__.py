"""Ablations: variants of a training configuration over seeds, compared with alignment weight 0."""
