"""Credentials never leave in a URL."""

import pytest

from edged.redact import redacted


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rtsp://user:pass@host:554/1", "rtsp://***@host:554/1"),
        ("rtsp://user@host/1", "rtsp://***@host/1"),
        ("rtsp://user:p@ss@host/1", "rtsp://***@host/1"),
        ("rtsp://user:pa/ss@host/1", "rtsp://***@host/1"),
        ("rtsp://user:12/34@host/1", "rtsp://***@host/1"),
        ("rtsp://user:p#?ss@host/1", "rtsp://***@host/1"),
        ("rtsp://user:pa ss@host/1", "rtsp://***@host/1"),
        ("RTSP://user:pass@host", "RTSP://***@host"),
        ("http://cam/shot?usr=me&pwd=a@b&ch=1", "http://cam/shot?usr=***&pwd=***&ch=1"),
        (
            "rtsp://cam/user=me_password=a_b_channel=1.sdp",
            "rtsp://cam/user=***_password=***_channel=1.sdp",
        ),
        ("cannot open rtsp://user:pass@host/1: no", "cannot open rtsp://***@host/1: no"),
        ("rtsp://host:554/1", "rtsp://host:554/1"),
        ("v4l2:/dev/video0", "v4l2:/dev/video0"),
        ("picamera", "picamera"),
        ("", ""),
    ],
)
def test_credentials_are_hidden(text, expected) -> None:
    assert redacted(text) == expected
    assert redacted(expected) == expected


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("picamera:1", "picamera:1"),
        ("v4l2:/dev/video0", "v4l2:/dev/video0"),
        ("file:/home/a@b/clip?.mp4", "file:/home/a@b/clip?.mp4"),
        ("rtsp://cam/h264", "rtsp://cam/h264"),
        ("rtsp://admin:secret@cam:554/h264", "rtsp://***@cam:554/h264"),
        ("rtsp://admin:se@cr/e?t#@cam:554/h264", "rtsp://***@cam:554/h264"),
        ("RTSP://admin@cam/x#secret", "RTSP://***@cam/x"),
        (
            "rtsp://cam/cam/realmonitor?channel=1&subtype=0",
            "rtsp://cam/cam/realmonitor?channel=1&subtype=0",
        ),
        ("http://cam/snap.cgi?user=a&pwd=secret&width=64", "http://cam/snap.cgi?user=***&pwd=***&width=64"),
        ("https://cam/x?secret", "https://cam/x?***"),
        ("http://cam/x?token=", "http://cam/x?token="),
        ("http://[fe80::1]:80/x", "http://[fe80::1]:80/x"),
    ],
)  # fmt: skip
def test_of_sources_the_rest_stays(source: str, shown: str) -> None:
    assert redacted(source) == shown
    assert "secret" not in redacted(source)
