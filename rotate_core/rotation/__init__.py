"""The whole method on bare tensors: U and w in, channels out. See README.md."""
