"""docs/ant.gif: runs side by side, each played by its own agent from the same start.

    python page/film.py runs/benchmark/Ant-v4__{clip,phi,klip,kl_fixed}__1

Drawing needs OpenGL; see evaluate.py. On a machine without a display, set MUJOCO_GL=egl or osmesa.
"""

import sys

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import evaluate

TITLES = ("clip (min)", "Φ", "β_t", "one β = 1")
SIZE = 180  # of a picture, pixels
BAR = 24  # for its title
STEPS = 100
EVERY = 2  # steps in a frame
SECONDS_A_STEP = 0.05  # of Ant-v4
COLORS = 48


def play(folder: str) -> np.ndarray:
    """Frames [K, SIZE, SIZE, 3] of an agent that acts without noise."""
    state, facts = evaluate.load(folder)
    env = evaluate.filming_env(facts["env_id"])
    obs, _ = env.reset(seed=1_000_000)
    frames = []
    for step in range(STEPS):
        if step % EVERY == 0:
            frames.append(Image.fromarray(env.render()).resize((SIZE, SIZE)))
        obs, *_ = env.step(evaluate.numpy_policy(state, np.float32(obs)))
    env.close()
    return np.stack(frames)


def main(folders: list[str]) -> None:
    """Write the film."""
    films = np.concatenate([play(folder) for folder in folders], axis=2)
    font = ImageFont.truetype("DejaVuSans.ttf", 15)
    pages = []
    for frame in films:
        page = Image.new("RGB", (SIZE * len(folders), SIZE + BAR), "white")
        page.paste(Image.fromarray(frame), (0, BAR))
        draw = ImageDraw.Draw(page)
        for k, title in enumerate(TITLES):
            draw.text((SIZE * (k + 0.5), BAR / 2), title, fill="black", font=font, anchor="mm")
        pages.append(page)
    palette = pages[0].quantize(COLORS)
    pages = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    duration = int(1000 * EVERY * SECONDS_A_STEP)
    pages[0].save("docs/ant.gif", save_all=True, append_images=pages[1:], duration=duration, loop=0)


if __name__ == "__main__":
    main(sys.argv[1:])
