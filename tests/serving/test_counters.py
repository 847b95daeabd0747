"""The text that Prometheus reads."""

from __future__ import annotations

import re

from zoo.serving.counters import Counters, Histogram


def test_a_histogram_counts_what_is_at_most_each_bound() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0.5, 1, 1.5, 4, 5):
        histogram.add(value)
    assert list(histogram.lines("x")) == [
        'x_bucket{le="1"} 2',
        'x_bucket{le="2"} 3',
        'x_bucket{le="4"} 4',
        'x_bucket{le="+Inf"} 5',
        "x_sum 12.000000",
        "x_count 5",
    ]


def test_every_line_is_of_the_format_and_every_name_is_declared_once() -> None:
    counters = Counters(digest='a"b\\c\nd', version="1")
    counters.request("/predict", 200, 0.1)
    counters.request("/predict", 200, 0.2)
    counters.request("other", 404, 0.0)
    counters.images("sure", 3)
    counters.batch(7)
    text = counters.text({"zoo_queue_images": ("Waiting.", 3.0)})
    value = r"[-+]?(\d+\.?\d*(e[-+]?\d+)?|Inf|NaN)"
    label = r'[a-z_]+="(\\.|[^"\\\n])*"'
    for line in text.splitlines():
        assert line.startswith("# ") or re.fullmatch(rf"[a-z_]+(\{{{label}(,{label})*\}})? {value}", line), line
    declared = re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)
    used = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"^([a-z_]+)[{ ]", text, re.MULTILINE)}
    assert sorted(declared) == sorted(used) and text.endswith("\n")
    assert 'zoo_requests_total{path="/predict",status="200"} 2' in text and 'digest="a\\"b\\\\c\\nd"' in text
    assert 'zoo_images_total{outcome="sure"} 3' in text and "zoo_queue_images 3" in text
