import numpy as np
import pytest

from mnemic.envs.houses import MATERIALS, generate, top_down
from mnemic.envs.houses.top_down import OUTSIDE


def test_the_picture_has_walls_floors_and_things_at_their_places() -> None:
    house = generate(2)
    image = top_down(house, 50)
    assert image.shape == (round(house.size[2] * 50), round(house.size[0] * 50), 3)
    assert image.dtype == np.uint8
    assert (image[0] == OUTSIDE).all(), "the outer wall"
    for door in house.doors:
        x, z = ((a + b) / 2 for a, b in zip(door.low, door.high, strict=True))
        assert (image[int(z * 50), int(x * 50)] != OUTSIDE).any()
    ball = next(thing for thing in house.things if thing.kind == "ball")
    red = next(material for material in MATERIALS if material.name == "beach_ball").first
    seen = image[int(ball.centre[2] * 50), int(ball.centre[0] * 50)]
    assert np.abs(seen - np.array(red) * 255).max() <= 1


def test_no_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^top_down: scale is 0"):
        top_down(generate(0), 0)
