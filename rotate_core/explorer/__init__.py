"""The neuron explorer: one widget for the book, for JupyterLab and for Voila."""
