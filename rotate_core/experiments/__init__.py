"""The paper's experiments: text, activations, ablations, estimators with nulls, a scoreboard."""
