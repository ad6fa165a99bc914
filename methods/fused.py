"""Faster training of networks in bfloat16 on a CPU, on the same parameters, equal up to rounding."""

import math
import operator
from contextlib import nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from methods.norm_relu import NormReLU

SMALL = 16  # output pixels of an image up to which oneDNN's weight gradient is slower than a product of columns
WIDE = 256  # output channels from which it is for four times the pixels; input channels: and the convolution itself is
SHORT = 128  # tokens; torch's fused attention, with backward pass, takes 4 (17 tokens) to 1.3 times (145) as products


def columns(x: Tensor, stride: int) -> Tensor:
    """Return the 3×3 surroundings of each output pixel (B·H·W, 9·C) of x (B, C, H, W), with padding 1."""
    windows = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).unfold(1, 3, stride).unfold(2, 3, stride)
    return windows.permute(0, 1, 2, 4, 5, 3).reshape(-1, 9 * x.shape[1])


def output_pixels(x: Tensor, stride: int) -> int:
    return math.prod((size - 1) // stride + 1 for size in x.shape[2:])


def pixels(x: Tensor) -> Tensor:
    """Return x (B, C, H, W) as a matrix (B·H·W, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


class ColumnsFunction(torch.autograd.Function):
    """A 3×3 convolution by matrix products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        ctx.wide = x.shape[1] >= WIDE and output_pixels(x, stride) <= SMALL
        if not ctx.wide:
            return F.conv2d(x, weight, stride=stride, padding=1)
        y = columns(x, stride) @ pixels(weight).view(len(weight), -1).T
        return y.view(len(x), (x.shape[2] - 1) // stride + 1, -1, len(weight)).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        dweight = pixels(dy).T.contiguous() @ columns(x, ctx.stride)  # the copy costs less than it saves
        dweight = dweight.view(-1, 3, 3, x.shape[1]).permute(0, 3, 1, 2)
        if ctx.stride == 1 and ctx.wide:
            dx = columns(dy, 1) @ weight.flip(2, 3).permute(2, 3, 0, 1).reshape(-1, x.shape[1])
            dx = dx.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)
        else:
            options = [ctx.stride] * 2, [1, 1], [1, 1], False, [0, 0], 1
            dx, *_ = torch.ops.aten.convolution_backward(dy, x, weight, None, *options, [True, False, False])
        return dx, dweight, None


class Columns(nn.Module):
    """A 3×3 convolution by columns if that pays for the size of its input."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv

    @staticmethod
    def takes(conv: nn.Conv2d) -> bool:
        plain = conv.kernel_size == (3, 3) and conv.padding == conv.dilation == (1, 1) and conv.padding_mode == "zeros"
        return plain and conv.stride[0] == conv.stride[1] and conv.groups == 1 and conv.bias is None

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C_out, H_out, W_out)."""
        stride = self.conv.stride[0]
        small = 4 * SMALL if self.conv.out_channels >= WIDE else SMALL
        if x.dtype == torch.bfloat16 and output_pixels(x, stride) <= small:
            y: Tensor = ColumnsFunction.apply(x, self.conv.weight.to(torch.bfloat16), stride)
            return y
        return self.conv(x)  # type: ignore[no-any-return]


class Products(TorchFunctionMode):
    """Attention among few tokens in bfloat16 by matrix products."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        attends = function is F.scaled_dot_product_attention and args  # of a query (…, tokens, channels)
        short = attends and args[0].dtype == torch.bfloat16 and args[0].shape[-2] <= SHORT
        with sdpa_kernel(SDPBackend.MATH) if short else nullcontext():
            return function(*args, **(kwargs or {}))


class ShortAttention(nn.Module):
    """A network whose attention is by `Products`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return what the network does."""
        with Products():
            return self.model(x)  # type: ignore[no-any-return]


def fused(model: nn.Module) -> nn.Module:
    """Return `model`, which is put into train mode, on the same parameters, for faster training in bfloat16 on a CPU.

    Convolutions, batch normalisation and ReLU are replaced if the flow of control can be traced, attention if there is
    no batch normalisation.
    """
    model.train()
    if not any(type(module) is nn.BatchNorm2d for module in model.modules()):
        return ShortAttention(model)
    try:
        traced = fx.symbolic_trace(model)
    except (fx.proxy.TraceError, TypeError):
        return model
    graph = traced.graph

    def module_of(node: fx.Node) -> nn.Module | None:
        return traced.get_submodule(str(node.target)) if node.op == "call_module" else None

    def is_norm(node: Any) -> bool:
        return isinstance(node, fx.Node) and type(module_of(node)) is nn.BatchNorm2d

    def replace(norm: fx.Node, *later: fx.Node, add: fx.Node | None = None) -> None:
        """Put one module in the place of `norm` and of the nodes that follow it."""
        module, name, last = module_of(norm), f"fused_{norm.name}", (norm, *later)[-1]
        traced.add_submodule(name, NormReLU(cast(nn.BatchNorm2d, module), relu=bool(later)))
        with graph.inserting_before(last):
            both = graph.call_module(name, (norm.args[0], add))
            outputs = [graph.call_function(operator.getitem, (both, i)) for i in range(2)]
        for i, user in enumerate(list(last.users)):
            user.replace_input_with(last, outputs[min(i, 1)])
        for node in (*reversed(later), norm):
            graph.erase_node(node)

    for relu in list(graph.nodes):
        if type(module_of(relu)) is nn.ReLU or relu.target in (torch.relu, F.relu):
            source = relu.all_input_nodes[0]
            if is_norm(source) and len(source.users) == 1:
                replace(source, relu)
            elif source.target in (operator.add, operator.iadd) and len(source.users) == 1:
                norm, *others = sorted(source.all_input_nodes, key=is_norm, reverse=True)
                if is_norm(norm) and len(norm.users) == len(others) == 1:
                    replace(norm, source, relu, add=others[0])
    for node in list(graph.nodes):
        module = module_of(node)
        if is_norm(node):
            replace(node)
        elif type(module) is nn.Conv2d and Columns.takes(module):
            node.target = f"fused_{node.name}"
            traced.add_submodule(node.target, Columns(module))
    traced.recompile()
    return traced
