"""Results to Axes: figures draw, they never compute."""
