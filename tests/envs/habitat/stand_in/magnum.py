"""What the worker takes from Magnum, as far as it goes without pictures."""

import numpy as np


class Vector3(list):
    def __init__(self, x, y=None, z=None):
        super().__init__([x, x, x] if y is None else [x, y, z])

    def __add__(self, other):
        return Vector3(*(a + b for a, b in zip(self, other)))  # noqa: B905

    @staticmethod
    def x_axis():
        return Vector3(1, 0, 0)

    @staticmethod
    def y_axis():
        return Vector3(0, 1, 0)


class Vector4(list):
    def __init__(self, *parts):
        super().__init__(parts)


class Matrix4:
    def __init__(self, *columns):
        self.columns = columns


class Vector2i(tuple):
    def __new__(cls, x, y):
        return super().__new__(cls, (x, y))


def Rad(angle):
    return angle


class Quaternion:
    def __init__(self, parts):
        self.parts = parts

    @staticmethod
    def rotation(angle, axis):
        return Quaternion([(angle, tuple(axis))])

    def __mul__(self, other):
        return Quaternion(self.parts + other.parts)


class PixelFormat:
    RGBA8_UNORM, R32F, R32UI = range(3)


def MutableImageView2D(kind, size, array):
    assert np.shares_memory(array, array.base)
    return array
