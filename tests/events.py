"""TensorBoard's event files, read without TensorBoard."""

import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX.proto.event_pb2 import Event, SessionLog


def read_events(folder: Path) -> dict[str, dict[int, list]]:
    """{tag: {step: values}} of scalars and pictures, as TensorBoard shows them.

    Records are a length, its checksum, the event, its checksum. What a later launch says that it does
    over again, TensorBoard drops.
    """
    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack("<Q", data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += 12 + length + 4
            if event.HasField("session_log") and event.session_log.status == SessionLog.START:
                found = {
                    tag: {step: values for step, values in steps.items() if step < event.step}
                    for tag, steps in found.items()
                }
            for value in event.summary.value:
                found.setdefault(value.tag, {}).setdefault(event.step, []).append(_content(value))
    return found


def _content(value):
    if value.HasField("image"):
        return np.asarray(Image.open(io.BytesIO(value.image.encoded_image_string)))
    return value.simple_value
