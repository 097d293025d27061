"""edged: on-device vision, from camera to MQTT."""

__version__ = "0.1.0"
