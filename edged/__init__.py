"""edged: on-device vision, from camera to MQTT."""

__version__ = "0.1.0"
# No clock that is right says less: raised with each release. 2026-11-21 UTC.
RELEASED_S = 1_795_219_200
