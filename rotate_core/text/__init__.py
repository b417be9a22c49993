"""A model at work on text: what it reads, what neurons do there, and without a channel."""
