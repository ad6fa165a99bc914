"""Batch normalisation, an optional sum and ReLU in one kernel: training in bfloat16 on a CPU, channels last."""

import ctypes
import platform
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDEST = ("-mprefer-vector-width=512",) if platform.machine() == "x86_64" else ()
COMPILE = ("gcc", "-O3", "-march=native", *WIDEST, "-fopenmp", "-shared", "-fPIC", "-x", "c", "-", "-lm", "-o")
LANES = 64  # the number of activations must be a multiple

SOURCE = r"""
// Batch normalisation in training, an optional sum and ReLU in one go, on bfloat16 in channels-last memory.
// Activations are flat: element i belongs to channel i % channels. What a channel has is held `period` times long, a
// multiple of LANES, so that the inner loop has a fixed length and no remainder; `size` must be a multiple of LANES.
// Sums are taken in float32 per block and in double over the blocks: the number of threads changes no result.
#define _DEFAULT_SOURCE
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#ifdef __linux__
#include <malloc.h>
#include <sys/mman.h>
#endif

enum { LANES = 64, BLOCK = 16384 };
typedef uint16_t bf16;
typedef struct { long size, channels, period, block, blocks; } Shape;

static inline float up(bf16 x) { union { uint32_t bits; float value; } y = {(uint32_t)x << 16}; return y.value; }

static inline bf16 down(float x) {  // to nearest, ties to even
    union { float value; uint32_t bits; } y = {x};
    return (y.bits + 0x7fff + (y.bits >> 16 & 1)) >> 16;
}

static Shape shape_of(long size, long channels) {
    long period = channels;
    while (period % LANES) period += channels;
    long block = period * (BLOCK > period ? BLOCK / period : 1);
    return (Shape){size, channels, period, block, (size + block - 1) / block};
}

// For each element: i, its place k in the period, its block b, of which the sums are `first` and `second` (period)
#define EACH(...) \
    _Pragma("omp parallel for schedule(static)") for (long b = 0; b < s.blocks; b++) { \
        float *restrict first = parts + 2 * s.period * b, *restrict second = first + s.period; (void)second; \
        for (long j = b * s.block, p = 0; j < s.size && j < (b + 1) * s.block; j += LANES) { \
            _Pragma("GCC ivdep") for (long l = 0; l < LANES; l++) { long i = j + l, k = p + l; __VA_ARGS__ } \
            p = p + LANES == s.period ? 0 : p + LANES; \
        } \
    }

// The sums (2, channels) of all blocks' parts (blocks, 2, period)
static void fold(Shape s, float *parts, double *sums) {
    for (long c = 0; c < 2 * s.channels; c++) sums[c] = 0;
    for (long part = 0; part < 2 * s.blocks; part++)
        for (long k = 0; k < s.period; k += s.channels)
            for (long c = 0; c < s.channels; c++)
                sums[part % 2 * s.channels + c] += parts[part * s.period + k + c];
}

static void repeat(Shape s, float *values) {
    for (long k = s.channels; k < s.period; k++) values[k] = values[k - s.channels];
}

// y = max(normalised x + add, least). `add` may be NULL; `statistics`: mean and 1/std, (2, channels), for `backward`
void forward(long size, long channels, const bf16 *restrict x, const bf16 *restrict add, const float *weight,
             const float *bias, float *running_mean, float *running_var, float momentum, float eps, float least,
             bf16 *restrict y, float *statistics) {
    Shape s = shape_of(size, channels);
    float *parts = calloc(2 * s.period * s.blocks, sizeof(float)), scale[s.period], shift[s.period];
    EACH(float v = up(x[i]); first[k] += v; second[k] += v * v;)
    double sums[2 * channels], n = size / channels;
    fold(s, parts, sums);
    for (long c = 0; c < channels; c++) {
        double mean = sums[c] / n, var = fmax(sums[channels + c] / n - mean * mean, 0);
        statistics[c] = mean;
        statistics[channels + c] = 1 / sqrt(var + eps);
        scale[c] = weight[c] * statistics[channels + c];
        shift[c] = bias[c] - statistics[c] * scale[c];
        running_mean[c] += momentum * (mean - running_mean[c]);
        running_var[c] += momentum * (var * n / (n - 1) - running_var[c]);
    }
    repeat(s, scale);
    repeat(s, shift);
    if (add) { EACH(float v = up(x[i]) * scale[k] + shift[k] + up(add[i]); y[i] = down(v < least ? least : v);) }
    else { EACH(float v = up(x[i]) * scale[k] + shift[k]; y[i] = down(v < least ? least : v);) }
    free(parts);
}

// dx, dweight and dbias of dy + dy2, of which only the elements with y > least count: `masked`, the gradient of `add`.
// `dy2` may be NULL. So may `y` and `masked`, both, if there was no `add`: then y is computed again from x.
void backward(long size, long channels, const bf16 *restrict dy, const bf16 *restrict dy2, const bf16 *restrict y,
              const bf16 *restrict x, const float *weight, const float *bias, const float *statistics, float least,
              bf16 *restrict masked, bf16 *restrict dx, float *dweight, float *dbias) {
    Shape s = shape_of(size, channels);
    float *parts = calloc(2 * s.period * s.blocks, sizeof(float)), scale[s.period], shift[s.period];
    float ofx[s.period], constant[s.period];
    for (long c = 0; c < channels; c++) {
        scale[c] = weight[c] * statistics[channels + c];
        shift[c] = bias[c] - statistics[c] * scale[c];
    }
    repeat(s, scale);
    repeat(s, shift);
    if (dy2) {
        EACH(bf16 m = up(y[i]) > least ? down(up(dy[i]) + up(dy2[i])) : 0; masked[i] = m;
             float g = up(m); first[k] += g; second[k] += g * up(x[i]);)
    } else if (masked) {
        EACH(bf16 m = up(y[i]) > least ? dy[i] : 0; masked[i] = m;
             float g = up(m); first[k] += g; second[k] += g * up(x[i]);)
    } else {
        EACH(float v = up(x[i]), g = v * scale[k] + shift[k] > least ? up(dy[i]) : 0;
             first[k] += g; second[k] += g * v;)
    }
    double sums[2 * channels], n = size / channels;
    fold(s, parts, sums);
    for (long c = 0; c < channels; c++) {
        double mean = statistics[c], deviation = statistics[channels + c];
        dbias[c] = sums[c];
        dweight[c] = deviation * (sums[channels + c] - mean * sums[c]);
        ofx[c] = -scale[c] * deviation * dweight[c] / n;
        constant[c] = -scale[c] * sums[c] / n - ofx[c] * mean;
    }
    repeat(s, ofx);
    repeat(s, constant);
    if (masked) { EACH(dx[i] = down(scale[k] * up(masked[i]) + ofx[k] * up(x[i]) + constant[k]);) }
    else {
        EACH(float v = up(x[i]), g = v * scale[k] + shift[k] > least ? up(dy[i]) : 0;
             dx[i] = down(scale[k] * g + ofx[k] * v + constant[k]);)
    }
    free(parts);
}

// Have the allocator keep freed memory, 2 GiB of it in large pages: new pages cost a sixth of a training step.
void keep_memory(void) {
#ifdef __GLIBC__
    size_t page = 1 << 21, size = (size_t)1 << 31;
    if (!mallopt(M_MMAP_MAX, 0) || !mallopt(M_TRIM_THRESHOLD, -1)) return;
    char *memory = malloc(size);
    if (memory) madvise(memory + page - (uintptr_t)memory % page, size - page, MADV_HUGEPAGE);
    free(memory);
#endif
}
"""


def can_compile() -> bool:
    """Return whether there is the compiler that the kernels need."""
    return sys.platform == "linux" and shutil.which(COMPILE[0]) is not None


@cache
def kernels() -> ctypes.CDLL:
    """Compile the kernels for this machine, in about a second; the process keeps its memory from then on."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder, "kernels.so"))
        done = subprocess.run([*COMPILE, path], input=SOURCE, text=True, capture_output=True)
        if done.returncode:
            raise RuntimeError(
                f"Expected gcc to compile the kernels of compute.fused, but got {done.stderr.strip()}; "
                f"set compute.fused=false."
            )
        library = ctypes.CDLL(path)
    size, pointer, number = ctypes.c_long, ctypes.c_void_p, ctypes.c_float
    library.forward.argtypes = (*[size] * 2, *[pointer] * 6, *[number] * 3, *[pointer] * 2)
    library.backward.argtypes = (*[size] * 2, *[pointer] * 7, number, *[pointer] * 4)
    library.keep_memory()
    return library


def call(kernel: str, *arguments: Tensor | int | float | None) -> None:
    """Call a kernel; the caller keeps the tensors alive."""
    getattr(kernels(), kernel)(*(x.data_ptr() if isinstance(x, Tensor) else x for x in arguments))


class NormReLUFunction(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, add: Tensor | None, weight: Tensor, bias: Tensor, norm: nn.BatchNorm2d, least: float
    ) -> tuple[Tensor, Tensor]:
        y, statistics = torch.empty_like(x), torch.empty((2, len(weight)))
        call(
            "forward", x.numel(), len(weight), x, add, weight, bias, norm.running_mean, norm.running_var,
            norm.momentum, norm.eps, least, y, statistics,
        )  # fmt: skip
        ctx.save_for_backward(x, y, weight, bias, statistics)
        ctx.least, ctx.sums = least, add is not None
        ctx.set_materialize_grads(False)
        return y, y.detach()

    @staticmethod
    def backward(ctx: Any, *dys: Tensor | None) -> tuple[Tensor | None, ...]:
        x, y, weight, bias, statistics = ctx.saved_tensors
        dy, dy2 = ([dy.contiguous(memory_format=torch.channels_last) for dy in dys if dy is not None] + [None])[:2]
        dx, sums = torch.empty_like(x), torch.empty_like(statistics)
        masked = torch.empty_like(x) if ctx.sums or dy2 is not None else None
        call(
            "backward", x.numel(), len(weight), dy, dy2, y, x, weight, bias, statistics, ctx.least, masked, dx,
            sums[0], sums[1],
        )  # fmt: skip
        return dx, masked if ctx.sums else None, sums[0], sums[1], None, None


class NormReLU(nn.Module):
    """relu(norm(x) + add), or without ReLU, for two users: the kernel adds their gradients."""

    def __init__(self, norm: nn.BatchNorm2d, *, relu: bool) -> None:
        super().__init__()
        self.norm, self.relu = norm, relu

    def forward(self, x: Tensor, add: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the activations twice, (B, C, H, W)."""
        if self.fits(x) and (add is None or (add.shape == x.shape and self.fits(add))):
            norm, least = self.norm, 0.0 if self.relu else -float("inf")
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.add_(1)
            return NormReLUFunction.apply(x, add, norm.weight, norm.bias, norm, least)  # type: ignore[no-any-return]
        y = self.norm(x) if add is None else self.norm(x) + add
        y = F.relu(y) if self.relu else y
        return y, y

    def fits(self, x: Tensor) -> bool:
        norm = self.norm
        usual = norm.training and norm.affine and norm.track_running_stats and norm.momentum is not None
        if not usual or norm.weight.dtype != torch.float32 or x.dtype != torch.bfloat16 or x.device.type != "cpu":
            return False
        whole = x.numel() % LANES == 0 and x.numel() > x.shape[1]  # one number has no variance
        return whole and x.is_contiguous(memory_format=torch.channels_last)
