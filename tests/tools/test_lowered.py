"""What is read from a compiled module. Compiling for a GPU needs a plugin that CI has not."""

import jax
import pytest

from safe_jax.runtime import devices
from tests import tiny
from tools import lowered

MODULE = """HloModule jit_step
%fused_add (p.0: f32[8,4], p.1: f32[8,4]) -> f32[8,4] {
  %p.0 = f32[8,4]{1,0} parameter(0)
  %p.1 = f32[8,4]{1,0} parameter(1)
  ROOT %add.1 = f32[8,4]{1,0} add(%p.0, %p.1)
}
%fused_transpose (p.2: f32[8,4]) -> bf16[4,8] {
  %p.2 = f32[8,4]{1,0} parameter(0)
  %turned = f32[4,8]{1,0} transpose(%p.2), dimensions={1,0}
  ROOT %cast = bf16[4,8]{1,0} convert(%turned)
}
%picked (p.3: f32[100,4], p.4: s32[8]) -> f32[8,4] {
  %p.3 = f32[100,4]{1,0} parameter(0)
  %p.4 = s32[8]{0} parameter(1)
  ROOT %gather.1 = f32[8,4]{1,0} gather(%p.3, %p.4), slice_sizes={1,4}
}
%body (state: (s32[], f32[8,4])) -> (s32[], /*index=1*/f32[8,4]) {
  %state = (s32[], /*index=1*/f32[8,4]{1,0}) parameter(0)
  %x = f32[8,4]{1,0} get-tuple-element(%state), index=1
  %i = s32[] get-tuple-element(%state), index=0
  %twice = f32[8,4]{1,0} fusion(%x, %x), kind=kLoop, calls=%fused_add
  ROOT %both = (s32[], f32[8,4]{1,0}) tuple(%i, %twice)
}
ENTRY %main (table: f32[100,4], rows: s32[8], w: f32[4,4]) -> bf16[4,8] {
  %table = f32[100,4]{1,0} parameter(0)
  %rows = s32[8]{0} parameter(1)
  %w = f32[4,4]{1,0} parameter(2)
  %batch = f32[8,4]{1,0} fusion(%table, %rows), kind=kLoop, calls=%picked
  %matmul = (f32[8,4]{1,0}, s8[4096]{0}) custom-call(%batch, %w), custom_call_target="cublas"
  %product = f32[8,4]{1,0} get-tuple-element(%matmul), index=0
  %zero = s32[] constant(0)
  %first = (s32[], /*index=1*/f32[8,4]{1,0}) tuple(%zero, %product)
  %loop = (s32[], /*index=1*/f32[8,4]) while(%first), body=%body, x={"known_trip_count":{"n":"3"}}
  %last = f32[8,4]{1,0} get-tuple-element(%loop), index=1
  ROOT %turn = bf16[4,8]{1,0} fusion(%last), kind=kInput, calls=%fused_transpose
}
"""


def test_kernels_of_a_module_are_counted():
    found = list(lowered.kernels(MODULE))
    rows, product, *loop, turned = found
    assert rows.bytes == 128 + 32 + 128  # the rows that are picked, not the table
    assert product.bytes == 128 + 64 + 128  # not the memory that cuBLAS works in
    assert [kernel.bytes for kernel in loop] == [3 * 128] * 3
    assert turned.bytes == 128 + 64
    assert [kernel.only_moves for kernel in found] == [False] * 5 + [True]


@pytest.mark.parametrize("name", ["trunk", "step_as_one", "alphas", "cache_grid"])
def test_programs_are_lowered(name):
    sharding = devices.replicated(devices.make_mesh(jax.devices()[:1]))
    shapes = lowered.Shapes(sharding, tiny.CONFIG)
    assert "func.func public @main" in lowered.PROGRAMS[name](shapes).as_text()
