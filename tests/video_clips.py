"""Real video files, written with PyAV, whose pixels say which frame they are."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np

HEIGHT, WIDTH, BITS, BLOCK = 48, 64, 12, 16


def picture(number: int) -> Any:
    """Frame `number`, its bits as black and white blocks, row by row."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(BITS):
        row, column = divmod(bit, WIDTH // BLOCK)
        image[row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK] = 255 * (number >> bit & 1)
    return image


def number_of(image: Any) -> int:
    """The number that a frame (of any size, upright) shows."""
    height, width = image.shape[0] / HEIGHT, image.shape[1] / WIDTH
    found = 0
    for bit in range(BITS):
        row, column = divmod(bit, WIDTH // BLOCK)
        middle = image[
            int((row * BLOCK + 5) * height) : int((row * BLOCK + 11) * height),
            int((column * BLOCK + 5) * width) : int((column * BLOCK + 11) * width),
        ]
        found |= (middle.mean() > 127) << bit
    return found


def write(
    path,
    times,
    codec="libx264",
    options=None,
    fmt=None,
    rotation=None,
    start=0.0,
    base=Fraction(1, 90000),
    frame=picture,
):
    """A video whose frame i is shown at times[i] seconds after `start`. Returns the path."""
    import av

    with av.open(str(path), "w", format=fmt) as container:
        stream = container.add_stream(codec, rate=30, options={"g": "30", **(options or {})})
        stream.width, stream.height, stream.pix_fmt = frame(0).shape[1], frame(0).shape[0], "yuv420p"
        stream.codec_context.time_base = base
        if rotation is not None:
            stream.set_display_rotation(rotation)
        for number, seconds in enumerate(times):
            shown = av.VideoFrame.from_ndarray(frame(number), format="rgb24")
            shown.pts, shown.time_base = round((seconds + start) / base), base
            container.mux(stream.encode(shown))
        container.mux(stream.encode())
    return path


def write_sound(path):
    """A file with sound and no picture."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        for i in range(8):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.sample_rate, sound.pts = 16000, i * 1024
            container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path
