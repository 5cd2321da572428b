"""Writes glTF 2.0 in one binary file: meshes with vertex colours, ids and textures, and nothing else of the format.

Source: Khronos, glTF 2.0 specification (registry.khronos.org/glTF/specs/2.0/glTF-2.0.html), sections 3.6 and 4.4.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

BYTE, SHORT, INT, FLOAT = 5121, 5123, 5125, 5126
"""Component types: uint8, uint16, uint32, float32."""
ARRAY, ELEMENTS = 34962, 34963
NEAREST, CLAMP = 9728, 33071


class Glb:
    """A file while it is put together."""

    def __init__(self, extras: dict[str, Any]) -> None:
        self._bytes = bytearray()
        self._json: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "mnemic"},
            "extensionsUsed": ["KHR_materials_unlit"],
            "extras": extras,
            "scene": 0,
            "scenes": [{"nodes": []}],
            # As rays are cast: what is seen of an image is one point of it, with nothing mixed in from around it.
            "samplers": [
                {"magFilter": NEAREST, "minFilter": NEAREST, "wrapS": CLAMP, "wrapT": CLAMP},
            ],
        }

    def _add(self, where: str, what: dict[str, Any]) -> int:
        """Append to one of the file's lists and return its place there."""
        found: list[Any] = self._json.setdefault(where, [])
        found.append(what)
        return len(found) - 1

    def _view(self, data: bytes, **more: int) -> int:
        self._bytes += b"\0" * (-len(self._bytes) % 4)
        view = {"buffer": 0, "byteOffset": len(self._bytes), "byteLength": len(data), **more}
        self._bytes += data
        return self._add("bufferViews", view)

    def _accessor(self, values: np.ndarray, component: int, kind: str, **more: Any) -> int:
        """Add vertex attributes, rows of at least four bytes, which is what they have to begin at multiples of."""
        data = np.ascontiguousarray(values)
        view = self._view(data.tobytes(), target=ARRAY, byteStride=data.strides[0])
        accessor = {"bufferView": view, "componentType": component, "count": len(values), "type": kind, **more}
        return self._add("accessors", accessor)

    def material(self, name: str, png: bytes | None) -> int:
        """Return a material without lights, with an image or only the colours of its vertices."""
        look: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 1.0}
        if png is not None:
            image = self._add("images", {"bufferView": self._view(png), "mimeType": "image/png", "name": name})
            look["baseColorTexture"] = {"index": self._add("textures", {"sampler": 0, "source": image})}
        unlit = {"name": name, "pbrMetallicRoughness": look, "extensions": {"KHR_materials_unlit": {}}}
        return self._add("materials", unlit)

    def mesh(
        self,
        name: str,
        material: int,
        position_V3: np.ndarray,
        corner_F3: np.ndarray,
        colour_V4: np.ndarray,
        normal_V3: np.ndarray | None = None,
        texture_V2: np.ndarray | None = None,
        id_V: np.ndarray | None = None,
    ) -> None:
        """Add a mesh of triangles, with a node that shows it.

        Args:
            name: of the mesh and of the node.
            material: as of `material`.
            position_V3: (V, 3), metres.
            corner_F3: (F, 3) vertices of triangles.
            colour_V4: (V, 4) uint8, which the material's image is multiplied with.
            normal_V3: (V, 3).
            texture_V2: (V, 2) places on the image in 0..1, from its upper left corner.
            id_V: (V,) ids below 65536, as the attribute _OBJECT_ID.
        """
        place = position_V3.astype(np.float32)
        low, high = place.min(0).tolist(), place.max(0).tolist()
        attributes = {
            "POSITION": self._accessor(place, FLOAT, "VEC3", min=low, max=high),
            "COLOR_0": self._accessor(colour_V4.astype(np.uint8), BYTE, "VEC4", normalized=True),
        }
        if normal_V3 is not None:
            attributes["NORMAL"] = self._accessor(normal_V3.astype(np.float32), FLOAT, "VEC3")
        if texture_V2 is not None:
            attributes["TEXCOORD_0"] = self._accessor(texture_V2.astype(np.float32), FLOAT, "VEC2")
        if id_V is not None:
            padded_V2 = np.stack([id_V, np.zeros_like(id_V)], 1).astype(np.uint16)
            attributes["_OBJECT_ID"] = self._accessor(padded_V2, SHORT, "SCALAR")
        view = self._view(corner_F3.astype(np.uint32).tobytes(), target=ELEMENTS)
        corners = {"bufferView": view, "componentType": INT, "count": corner_F3.size, "type": "SCALAR"}
        primitive = {"attributes": attributes, "indices": self._add("accessors", corners), "material": material}
        mesh = self._add("meshes", {"name": name, "primitives": [primitive]})
        self._json["scenes"][0]["nodes"].append(self._add("nodes", {"name": name, "mesh": mesh}))

    def write(self, path: Path) -> None:
        """Write the file."""
        self._bytes += b"\0" * (-len(self._bytes) % 4)
        self._json["buffers"] = [{"byteLength": len(self._bytes)}]
        text = json.dumps(self._json, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        length = 12 + 8 + len(text) + 8 + len(self._bytes)
        head = struct.pack("<4sII", b"glTF", 2, length) + struct.pack("<I4s", len(text), b"JSON")
        path.write_bytes(head + text + struct.pack("<I4s", len(self._bytes), b"BIN\0") + bytes(self._bytes))
