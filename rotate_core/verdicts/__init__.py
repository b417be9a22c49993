"""From figures to verdicts: intervals, comparison with a null, the scoreboard, the record."""
