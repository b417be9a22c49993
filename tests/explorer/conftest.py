"""A tiny model, and an explorer of it whose messages can be waited for."""

from __future__ import annotations

import threading

import pytest

from rotate_core import load_model


@pytest.fixture(scope="module")
def model(checkpoints):
    return load_model(checkpoints("llama"))


@pytest.fixture
def explorer(model, monkeypatch):
    """An explorer whose messages are kept, and waited for."""
    from rotate_core.explorer import Explorer

    widget = Explorer(model, neurons=[(1, "out", 3), (0, "gate", 5)], n_channels=2)
    widget.sent = []
    widget.came = threading.Condition()

    def keep(message, buffers=None):
        with widget.came:
            widget.sent.append(message)
            widget.came.notify_all()

    monkeypatch.setattr(widget._jobs, "_send", keep)
    monkeypatch.setattr(type(widget), "send", lambda self, message, buffers=None: keep(message))
    return widget
