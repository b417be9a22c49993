"""A second device on a CPU: what would meet on a GPU from two devices fails here, too."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

CARD = torch.device("lazy")  # known to PyTorch, and used by nothing that is tested
_MOVES = (torch.ops.aten._to_copy, torch.ops.aten.copy_)
_INDEXES = (torch.ops.aten.index, torch.ops.aten.index_put_, torch.ops.aten._index_put_impl_)


class OnCard(Tensor):
    """A CPU's tensor that says it is on the card."""

    @staticmethod
    def __new__(cls, held: Tensor) -> OnCard:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), dtype=held.dtype, device=CARD
        )
        made.held = held
        return made

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        raise RuntimeError(f"{function}: the card is there within SecondDevice() only")


class SecondDevice(TorchDispatchMode):
    """Compute what is on the card, and refuse to mix it with tensors that are not, as CUDA does."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_card = [isinstance(x, OnCard) for x in tensors]
        packet = function.overloadpacket
        # A scalar may be anywhere; and so may the index of a tensor on the card.
        checked = [x for x, there in zip(tensors, on_card, strict=True) if x.ndim and not there]
        if packet in _INDEXES and on_card[0]:
            checked = [x for x in checked if not any(x is index for index in args[1])]
        assert not (any(on_card) and checked) or packet in _MOVES, f"{function} on two devices"
        made_there = any(on_card)
        if kwargs.get("device") is not None:
            made_there = kwargs["device"].type == CARD.type
            kwargs["device"] = torch.device("cpu")
        assert not (made_there and kwargs.get("generator")), f"{function}: a CPU's generator"
        plain_args, plain_kwargs = tree_map(_held, (args, kwargs))
        result = function(*plain_args, **plain_kwargs)
        for tensor in tensors:  # of what works in place
            if _held(tensor) is result:
                return tensor
        return tree_map(lambda x: OnCard(x) if made_there and isinstance(x, Tensor) else x, result)


def _held(x: Any) -> Any:
    return x.held if isinstance(x, OnCard) else x
