"""What libcamera's virtual camera lacks for picamera2: imported by picamera2 in the camera rig.

Its pictures are NV12 in buffers of two planes, where a Raspberry Pi's have one; it knows no raw
stream, which a USB camera answers like any other; in libcamera 0.4 it leaves out whether a picture
is good. The rest of picamera2 is as it is.
"""

from __future__ import annotations

from typing import Any

import libcamera
import picamera2.picamera2
from picamera2.allocators import DmaAllocator


class TwoPlanes(DmaAllocator):
    """The same memory, told to libcamera as two planes one after the other."""

    def allocate(self, libcamera_config: Any, use_case: Any) -> None:
        super().allocate(libcamera_config, use_case)
        for config in libcamera_config:
            whole = self.frame_buffers[config.stream]
            self.frame_buffers[config.stream] = [self._split(one, config) for one in whole]

    def _split(self, whole: Any, config: Any) -> Any:
        descriptor = whole.planes[0].fd
        luma_bytes = config.stride * config.size.height
        planes = []
        for offset, length in ((0, luma_bytes), (luma_bytes, config.frame_size - luma_bytes)):
            plane = libcamera.FrameBuffer.Plane()
            plane.fd, plane.offset, plane.length = descriptor, offset, length
            planes.append(plane)
        split = libcamera.FrameBuffer(planes)
        self.mapped_buffers[split] = self.mapped_buffers.pop(whole)
        del self.mapped_buffers_used[descriptor]
        self.libcamera_fds.remove(descriptor)
        self.mapped_buffers_used[split.planes[0].fd] = False
        self.libcamera_fds.append(split.planes[0].fd)
        return split


_generate = libcamera.Camera.generate_configuration


def _generate_any(camera: Any, roles: list[Any]) -> Any:
    viewfinders = [libcamera.StreamRole.Viewfinder for _ in roles]
    return _generate(camera, roles) or _generate(camera, viewfinders)


libcamera.Camera.generate_configuration = _generate_any
libcamera.FrameMetadata.status = property(lambda _: libcamera.FrameMetadata.Status.Success)
picamera2.picamera2.DmaAllocator = TwoPlanes
