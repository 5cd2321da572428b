import torch

from mnemic.envs.houses import KINDS, MATERIALS
from mnemic.envs.houses.house import BOX, SPHERE, as_solids

PATTERNS = {"plain", "checker", "stripes", "bricks", "planks", "noise"}


def test_kinds_and_materials_have_names_of_their_own() -> None:
    assert len(KINDS) == len(set(KINDS)) >= 20
    assert len(MATERIALS) == len({material.name for material in MATERIALS})


def test_materials_are_colours_in_a_known_pattern() -> None:
    assert {material.pattern for material in MATERIALS} == PATTERNS
    for material in MATERIALS:
        assert all(0 <= part <= 1 for part in (*material.first, *material.second)), material.name
        assert material.scale > 0


def test_rows_become_columns_of_their_types() -> None:
    rows = [(BOX, 1.0, 2.0, 3.0, 0.1, 0.2, 0.3, 0.5, 7, 0), (SPHERE, 4.0, 5.0, 6.0, 0.4, 0.4, 0.4, 0.0, 8, 300)]
    solids = as_solids(rows)
    assert [part.dtype for part in solids] == [torch.int8, *[torch.float32] * 3, torch.int64, torch.int64]
    assert [tuple(part.shape) for part in solids] == [(2,), (2, 3), (2, 3), (2,), (2,), (2,)]
    assert solids.centre_S3.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert solids.kind_S.tolist() == [BOX, SPHERE]
    assert (solids.material_S.tolist(), solids.semantic_S.tolist()) == ([7, 8], [0, 300])
    assert solids.yaw_S.tolist() == [0.5, 0.0]
