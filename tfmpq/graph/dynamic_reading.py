"""What a node with a kernel does with float activations: which operator reads them, and what has one grid."""

from __future__ import annotations

from tfmpq.graph.dynamic import Kernel
from tfmpq.graph.network import Node, operator_of
from tfmpq.quantizers.dynamic import InputGrid


def reads_patches(node: Node) -> bool:
    """Whether a convolution reads each pixel once: windows as large as its strides, which fill the image."""
    layer = node.main
    if node.kind != "conv2d" or layer.groups != 1 or any(rate != 1 for rate in layer.dilation_rate):
        return False
    shape = node.layers[0].input.shape[1:3]
    whole = all(size % extent == 0 for size, extent in zip(shape, layer.kernel_size, strict=True))
    return tuple(layer.kernel_size) == tuple(layer.strides) and whole


def input_grid(node: Node) -> tuple[InputGrid | None, tuple[int, int]]:
    """What of its input a node with a kernel puts on one grid, and the patch; None where it reads floats."""
    if node.kind == "dense" or operator_of(node) == "pointwise":
        return "row", (1, 1)
    if reads_patches(node):
        rows, columns = node.main.kernel_size
        return "patch", (int(rows), int(columns))
    if node.kind == "conv2d" and node.main.groups == 1:
        return "image", (1, 1)
    return None, (1, 1)


_KERNELS: dict[str, Kernel] = {
    "depthwise_conv2d": "DEPTHWISE_CONV_2D",
    "conv2d_transpose": "TRANSPOSE_CONV",
}


def kernel_of(node: Node) -> Kernel:
    """The operator that reads the weights of a node."""
    reads_matrix = input_grid(node)[0] in ("row", "patch")
    return _KERNELS.get(node.kind, "FULLY_CONNECTED" if reads_matrix else "CONV_2D")
