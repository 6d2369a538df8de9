"""A decoder's weights in the precision of their files, for the reference graph; never for a device.

    tensor (outputs, inputs), bfloat16 ─ Cast ─ Transpose ─ MatMul

Half the bytes to write and to read of what float32 would be, and nothing is turned on the way. Tensors may be
overridden, as ONNX has it: engines would fold what is made of them otherwise, and hold all of it as float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .parts import Linear
from .tensors import Stored
from .weights_in_graph import Store, named, outward

if TYPE_CHECKING:
    import onnx_ir as ir


class AsStored(Store):
    """A store whose matrices are those of the files, each written once."""

    weights: Stored

    def embedding(self, ids: ir.Value) -> ir.Value:
        rows = self.draft.op("Gather", [self._stored(f"{self.plan.embed}.weight"), ids], {"axis": 0}, name="embed.rows")
        return self._float(rows, "embed")

    def head(self) -> ir.Value:
        plan = self.plan
        name = plan.embed if self.tied else plan.head
        return self._matrix((Linear(name, plan.hidden, plan.vocabulary),), "")

    def _matrix(self, linears: tuple[Linear, ...], precision: str) -> ir.Value:
        """(inputs, outputs of all)."""
        draft, at = self.draft, named(linears, "weight")
        turned = not self.plan.conv1d or linears[0].name in (self.plan.head, self.plan.embed)
        outputs = 0 if turned else 1  # the axis
        found = [self._part(linear, outputs) for linear in linears]
        made = draft.op("Concat", found, {"axis": outputs}, name=f"{at}.joined") if len(found) > 1 else found[0]
        factors = np.concatenate([outward(linear) * np.float32(linear.inward) for linear in linears])
        if (factors != 1).any():
            factor = draft.tensor(f"{at}.factors", factors[:, None] if turned else factors)
            made = draft.op("Mul", [made, factor], name=f"{at}.multiplied")
        return draft.op("Transpose", [made], {"perm": [1, 0]}, name=f"{at}.turned") if turned else made

    def _part(self, linear: Linear, outputs: int) -> ir.Value:
        """As it lies in its file, as float32."""
        draft, name = self.draft, f"{linear.name}.weight"
        stored = self._stored(name)
        at = f"{name}.{linear.first}" if linear.stored else name
        made = self._float(stored, f"{at}.float")
        if not linear.stored:
            return made
        bounds = [draft.ints(f"{at}.{edge}", value) for edge, value in
                  (("first", linear.first), ("end", linear.first + linear.outputs), ("axis", outputs))]  # fmt: skip
        return draft.op("Slice", [made, *bounds], name=f"{at}.part")

    def _float(self, value: ir.Value, name: str) -> ir.Value:
        import onnx_ir as ir

        return self.draft.op("Cast", [value], {"to": ir.DataType.FLOAT}, name=name)

    def _stored(self, name: str) -> ir.Value:
        dtype, shape, pieces = self.weights.whole(name)
        return self.draft.known(name) or self.draft.stream(name, dtype, shape, pieces, overridable=True)
