"""Watching an agent: frames of one row, with what it was told, what it does, and what its memory holds.

Shapes: C cells of a strip, A ages in steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..agents.encoder import Inputs
from ..agents.policy import Policy
from ..envs.picture import Picture
from ..envs.step import EnvConfig, Step
from ..memory.core import State, parts
from .protocol import EVAL_SEED, check_fit

Colour = tuple[int, int, int]
BACKGROUND, INK, PALE = (250, 250, 250), (30, 30, 34), (120, 120, 128)


@dataclass(frozen=True)
class Attention:
    """How the attention of a step spreads over its trial, as far back as the core can attend."""

    share_C: NDArray[np.float64]  # of equal stretches of steps, the oldest first, the step itself in the last
    steps: int  # in all stretches together
    began: tuple[int, ...]  # those of the steps, from 0 for the oldest, with which episodes began

    @property
    def caption(self) -> str:
        """What the colours stand for."""
        return f"attention to the last {self.steps:,} steps, oldest left; darkest {self.share_C.max():.0%}"


@dataclass(frozen=True)
class Frame:
    """One moment of a row."""

    picture: Picture
    episode: int  # from 0
    step: int  # in the episode, from 0
    reward: float  # of the action before
    value: float  # what the agent expects from here
    action: str  # what it does next
    memory: NDArray[np.float64]  # (C,) in -1..1, after it has looked
    attention: Attention | None  # of this step; None: the core attends to no steps
    outcome: str = ""  # how the episode ended, in its last frame

    @property
    def caption(self) -> str:
        """Everything but the picture, the memory and the attention, in one line."""
        told = f"episode {self.episode + 1} · step {self.step} · reward {self.reward:+.2f} · "
        return told + (self.outcome or f"value {self.value:+.2f} · action {self.action}")


@torch.no_grad()
def watch(
    policy: Policy,
    env_config: EnvConfig,
    *,
    episodes: int,
    seed: int = 0,
    greedy: bool = True,
    max_steps: int | None = None,
) -> Iterator[Frame]:
    """Play one row and yield a frame for each step, and one more where an episode ends.

    Args:
        policy: acts; not changed.
        env_config: the task.
        episodes: how many.
        seed: other seeds give other episodes.
        greedy: the most likely action; False: actions are drawn.
        max_steps: stop after so many steps.

    Raises:
        ValueError: the task cannot be drawn, or the policy was not made for it.
    """
    env = env_config.build(1, seed ^ EVAL_SEED, policy.device)
    generator = torch.Generator(env.device).manual_seed(seed)
    try:
        check_fit(policy, env)
        state, step = env.reset()
        action, memory = policy.head.blank(1).to(env.device), policy.initial_memory(1)
        episode, moment, total, steps = 0, 0, 0.0, 0
        passed = [state]  # those of the episode
        opened, lived = [0], 0  # the steps of the trial that opened episodes, and all of them so far
        while episode < episodes and (max_steps is None or steps < max_steps):
            picture, reward = env.draw_episode(passed, 0), float(step.reward) if moment else 0.0
            inputs = policy.look(Inputs(step.obs, action, step.reward, step.episode_start, step.trial_start))
            attention = attention_of(policy, inputs, memory, opened, lived + 1)
            output, memory = policy.step(inputs, memory)
            action = policy.head.mode(output.action) if greedy else policy.head.sample(output.action, generator)
            told = picture, episode, moment, reward, float(output.value), _words(action, env.action_names)
            frame = Frame(*told, memory_strip(memory), attention)
            yield frame
            state, step = env.step(state, action)
            total, moment, steps, lived = total + float(step.reward), moment + 1, steps + 1, lived + 1
            passed.append(state)
            if bool(step.episode_start):
                outcome = f"{_ending(step)}: return {total:+.2f}"
                yield replace(frame, step=moment, reward=float(step.reward), outcome=outcome)
                episode, moment, total, passed = episode + 1, 0, 0.0, [state]
                opened, lived = ([0], 0) if bool(step.trial_start) else ([*opened, lived], lived)
    finally:
        env.close()


def _words(action: Tensor, names: Sequence[str]) -> str:
    if names:
        return names[int(action)]
    numbers = action.flatten().tolist()
    return " ".join(f"{number:.2f}" if action.is_floating_point() else str(number) for number in numbers)


def _ending(step: Step) -> str:
    if "success" not in step.info:
        return "the episode is over"
    return "solved" if bool(step.info["success"]) else "not solved"


def memory_strip(memory: State, cells: int = 64) -> NDArray[np.float64]:
    """Return what the memory of the first row holds as at most `cells` numbers in -1..1; empty for an empty memory.

    The floating-point parts stand side by side; each cell is the entry of a stretch of them that is farthest from 0,
    squashed by x / (1 + |x|), the same for every frame, so that frames can be compared.
    """
    held = [part[0].double().flatten().cpu().numpy() for part in parts(memory).values() if part.is_floating_point()]
    flat = np.nan_to_num(np.concatenate(held)) if held else np.empty(0)
    if flat.size == 0:
        return flat
    stretches = np.array_split(flat, min(cells, flat.size))
    strongest = np.array([stretch[np.abs(stretch).argmax()] for stretch in stretches])
    squashed: NDArray[np.float64] = strongest / (1 + np.abs(strongest))
    return squashed


def attention_of(
    policy: Policy, inputs: Inputs, memory: State, opened: Sequence[int], lived: int, cells: int = 64
) -> Attention | None:
    """Return what the step of the first row attends to, in at most `cells` stretches; None where the core cannot say.

    Args:
        policy: whose core is asked.
        inputs: of the step, looked at.
        memory: before the step.
        opened: the steps of the trial that opened episodes, from 0.
        lived: steps of the trial, this one included.
        cells: how many stretches.
    """
    x_BD, *flags = policy.told(inputs)
    share_BA = policy.core.attends(x_BD, memory, *flags)
    if share_BA is None:
        return None
    share_A = share_BA[0, :lived].double().flip(0).cpu().numpy()
    steps, missed = share_A.size, lived - share_A.size
    until_A = np.concatenate([[0.0], share_A.cumsum()])  # of the steps before each border; between two, in a line
    share_C = np.diff(np.interp(np.linspace(0, steps, min(cells, steps) + 1), np.arange(steps + 1), until_A))
    return Attention(share_C, steps, tuple(at - missed for at in opened if at >= missed))


def heat(value: float) -> Colour:
    """Return the colour of a number in -1..1: blue below zero, near white at it, red above."""
    end = np.array((200, 40, 40) if value > 0 else (40, 80, 200))
    red, green, blue = (np.array((244, 244, 244)) + (end - 244) * min(abs(value), 1.0)).astype(int).tolist()
    return red, green, blue


def write_gif(frames: Sequence[Frame], path: Path, *, seconds_per_step: float = 0.25) -> None:
    """Write frames as an animated GIF: the picture, its caption, the memory, what it attends to.

    Raises:
        OSError: the file cannot be written.
        ValueError: there are no frames.
    """
    if not frames:
        raise ValueError("there are no frames to write; play at least one step")
    rows, columns = (max(shape) for shape in zip(*(_size(frame.picture) for frame in frames), strict=True))
    images = [_image(frame, rows, columns).quantize(128, method=Image.Quantize.FASTOCTREE) for frame in frames]
    pause = [max(int(1000 * seconds_per_step), 20) * (4 if frame.outcome else 1) for frame in frames]
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=pause, loop=0, disposal=1)


def _size(picture: Picture) -> tuple[int, int]:
    return len(picture.cells), max((len(row) for row in picture.cells), default=0)


def _image(frame: Frame, rows: int, columns: int) -> Image.Image:
    """Draw a frame; pictures of up to `rows` by `columns` cells give images of one size."""
    scale = max(4, min(32, 480 // max(rows, columns, 1)))
    drawn = frame.picture.image
    high, wide = (scale * rows, scale * columns) if drawn is None else drawn.shape[:2]
    width, margin, line = max(wide, 480), 10, 20
    below = margin + high + 8
    strips = 1 if frame.attention is None else 2
    image = Image.new("RGB", (width + 2 * margin, below + 4 * line + 2 * line * strips + margin), BACKGROUND)
    pen, font = ImageDraw.Draw(image), _font(13)
    if drawn is None:
        _draw_cells(pen, frame.picture, margin + (width - scale * _size(frame.picture)[1]) // 2, margin, scale)
    else:
        image.paste(Image.fromarray(drawn), (margin + (width - wide) // 2, margin))
    # Two lines are kept for each caption.
    lines = [*_wrapped(frame.picture.caption, font, width), *_wrapped(frame.caption, font, width)]
    for i, text in enumerate(lines):
        pen.text((margin, below + i * line), text, fill=INK, font=font)
    area, y = (margin, width, line), below + 4 * line
    _draw_strip(pen, frame.memory, "memory" if frame.memory.size else "memory: empty", y, *area)
    if (seen := frame.attention) is not None:
        y += 2 * line
        _draw_strip(pen, seen.share_C / max(seen.share_C.max(), 1e-9), seen.caption, y, *area)
        for at in seen.began:
            x = margin + width * at / seen.steps
            pen.line((x, y + line, x, y + 2 * line), fill=INK)
    return image


def _draw_strip(
    pen: ImageDraw.ImageDraw, value_C: NDArray[np.float64], words: str, y: int, margin: int, width: int, line: int
) -> None:
    pen.text((margin, y), words, fill=PALE, font=_font(13))
    for i, value in enumerate(value_C.tolist()):
        left, right = (margin + width * (i + side) / value_C.size for side in (0, 1))
        pen.rectangle((left, y + line, right - 1, y + 2 * line), fill=heat(value))


def _draw_cells(pen: ImageDraw.ImageDraw, picture: Picture, left: int, top: int, scale: int) -> None:
    font = _font(max(scale * 2 // 3, 4))
    for i, row in enumerate(picture.cells):
        for j, cell in enumerate(row):
            x, y = left + j * scale, top + i * scale
            pen.rectangle((x, y, x + scale - 1, y + scale - 1), fill=cell.colour)
            if cell.glyph not in " █·" and scale >= 12:  # a block is its colour, and a floor needs no dot
                red, green, blue = cell.colour
                ink = INK if 3 * red + 6 * green + blue > 1400 else (255, 255, 255)  # on light cells dark letters
                pen.text((x + scale // 2, y + scale // 2), cell.glyph, fill=ink, font=font, anchor="mm")


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Return a font that has arrows and symbols: the one that comes with matplotlib."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Return at most two lines of a text that fit a width in pixels."""
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines[:2]
