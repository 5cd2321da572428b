"""What the things to find look like: a few solids each, in colours of their own, at the size of life."""

from __future__ import annotations

from .parts import Part, ball, box, cylinder

THINGS: dict[str, tuple[Part, ...]] = {
    "master_chef_can": (
        cylinder(0, 0, 0, 0.051, 0.125, "blue"),
        cylinder(0, 0.04, 0, 0.052, 0.045, "white"),
        cylinder(0, 0.125, 0, 0.047, 0.012, "brown"),
    ),
    "cracker_box": (box(0, 0, 0, 0.16, 0.21, 0.06, "red"), box(0, 0.09, 0, 0.12, 0.08, 0.064, "label")),
    "sugar_box": (box(0, 0, 0, 0.09, 0.175, 0.045, "yellow"), box(0, 0.05, 0, 0.094, 0.05, 0.049, "white")),
    "tomato_soup_can": (
        cylinder(0, 0, 0, 0.034, 0.05, "white"),
        cylinder(0, 0.05, 0, 0.034, 0.045, "red"),
        cylinder(0, 0.095, 0, 0.031, 0.006, "steel"),
    ),
    "tuna_fish_can": (cylinder(0, 0, 0, 0.05, 0.035, "teal"), cylinder(0, 0.035, 0, 0.046, 0.005, "steel")),
    "pudding_box": (box(0, 0, 0, 0.11, 0.09, 0.04, "brown"), box(0, 0.02, 0, 0.07, 0.04, 0.044, "tan")),
    "gelatin_box": (box(0, 0, 0, 0.085, 0.073, 0.035, "magenta"), box(0, 0.02, 0, 0.05, 0.03, 0.039, "lime")),
    "potted_meat_can": (
        box(0, 0, 0, 0.10, 0.075, 0.057, "blue"),
        box(0, 0.02, 0, 0.104, 0.025, 0.061, "yellow"),
        box(0, 0.075, 0, 0.092, 0.008, 0.05, "steel"),
    ),
    "banana": (
        box(0, 0, 0, 0.07, 0.034, 0.034, "yellow"),
        box(-0.055, 0, 0.02, 0.065, 0.03, 0.03, "yellow", yaw=0.65),
        box(0.055, 0, 0.02, 0.065, 0.03, 0.03, "yellow", yaw=-0.65),
        box(0.085, 0.004, 0.043, 0.02, 0.018, 0.014, "brown", yaw=-0.65),
    ),
    "strawberry": (
        ball(0, 0.018, 0, 0.03, "red"),
        ball(0, 0, 0, 0.02, "red"),
        cylinder(0, 0.07, 0, 0.022, 0.012, "green"),
    ),
    "apple": (
        ball(0, 0, 0, 0.04, "red"),
        cylinder(0, 0.075, 0, 0.004, 0.025, "brown"),
        box(0.018, 0.088, 0, 0.03, 0.005, 0.015, "green"),
    ),
    "lemon": (
        ball(0, 0, 0, 0.034, "yellow"),
        ball(-0.032, 0.021, 0, 0.013, "yellow"),
        ball(0.032, 0.021, 0, 0.013, "lime"),
    ),
    "peach": (
        ball(0, 0, 0, 0.038, "pink"),
        ball(0.012, 0.003, -0.006, 0.034, "orange"),
        box(0, 0.072, 0, 0.012, 0.006, 0.04, "green"),
    ),
    "pear": (
        ball(0, 0, 0, 0.04, "lime"),
        ball(0, 0.055, 0, 0.026, "lime"),
        cylinder(0, 0.10, 0, 0.004, 0.025, "brown"),
    ),
    "orange": (ball(0, 0, 0, 0.043, "orange"), cylinder(0, 0.08, 0, 0.012, 0.008, "green")),
    "plum": (ball(0, 0, 0, 0.035, "purple"), cylinder(0, 0.066, 0, 0.004, 0.02, "brown")),
    "bleach_cleanser": (
        cylinder(0, 0, 0, 0.05, 0.17, "white"),
        cylinder(0, 0.04, 0, 0.051, 0.07, "cyan"),
        cylinder(0, 0.17, 0, 0.02, 0.05, "blue"),
    ),
    "bowl": (
        cylinder(0, 0, 0, 0.045, 0.02, "red"),
        cylinder(0, 0.02, 0, 0.085, 0.04, "red"),
        cylinder(0, 0.06, 0, 0.072, 0.004, "wine"),
    ),
    "mug": (
        cylinder(0, 0, 0, 0.043, 0.09, "green"),
        cylinder(0, 0.09, 0, 0.036, 0.004, "brown"),
        box(0.058, 0.018, 0, 0.038, 0.052, 0.016, "green"),
    ),
    "sponge": (box(0, 0, 0, 0.11, 0.028, 0.07, "yellow"), box(0, 0.028, 0, 0.11, 0.014, 0.07, "green")),
    "pitcher": (
        cylinder(0, 0, 0, 0.06, 0.20, "purple"),
        box(0.08, 0.05, 0, 0.05, 0.11, 0.02, "purple"),
        cylinder(0, 0.20, 0, 0.05, 0.006, "white"),
    ),
    "vase": (
        cylinder(0, 0, 0, 0.05, 0.13, "cyan"),
        cylinder(0, 0.13, 0, 0.025, 0.05, "cyan"),
        ball(0.0, 0.17, 0.0, 0.05, "magenta"),
    ),
    "plant": (
        cylinder(0, 0, 0, 0.07, 0.11, "terracotta"),
        ball(0, 0.10, 0, 0.10, "green"),
        ball(0.02, 0.22, 0.01, 0.065, "lime"),
    ),
    "lamp": (
        cylinder(0, 0, 0, 0.05, 0.02, "gold"),
        cylinder(0, 0.02, 0, 0.012, 0.15, "gold"),
        cylinder(0, 0.15, 0, 0.085, 0.13, "white"),
    ),
    "ball": (ball(0, 0, 0, 0.09, "beach_ball"),),
    "teddy": (
        ball(0, 0, 0, 0.075, "brown"),
        ball(0, 0.125, 0, 0.055, "brown"),
        ball(0, 0.135, -0.04, 0.025, "tan"),
        ball(-0.04, 0.205, 0, 0.022, "brown"),
        ball(0.04, 0.205, 0, 0.022, "brown"),
    ),
    "clock": (
        box(0, 0, 0, 0.15, 0.15, 0.06, "black"),
        box(0, 0.015, -0.002, 0.12, 0.12, 0.066, "white"),
        box(0, 0.07, -0.004, 0.012, 0.05, 0.072, "red"),
    ),
    "books": (
        box(0, 0, 0, 0.20, 0.035, 0.15, "blue"),
        box(0.005, 0.035, 0, 0.18, 0.03, 0.14, "orange", yaw=0.2),
        box(-0.005, 0.065, 0, 0.16, 0.03, 0.12, "green", yaw=-0.25),
    ),
}
"""The parts of each kind."""

STANDS = frozenset(("plant", "lamp", "ball", "teddy", "books", "vase", "bleach_cleanser", "pitcher", "clock"))
"""The kinds that also stand on the floor."""
