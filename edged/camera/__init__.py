"""Cameras: one module per kind of source, all behind `edged.camera.base.Camera`."""
