"""Figures as people read them."""

import math

import pytest

from lwdc.text import duration, percent, points, si, significant


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (576, "576"), (45_600, "45.6k"), (1_234_567, "1.23M"), (999_600, "1.00M"), (41e9, "41.0G")],
)
def test_large_numbers_get_three_digits_and_a_prefix(number, text):
    assert si(number) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0"),
        (0.012345, "0.0123"),
        (0.9996, "1.00"),
        (12.345, "12.3"),
        (123456.0, "123456"),
        (float("nan"), "nan"),
        (1.7976e308, "1.7976e+308"),
    ],
)
def test_small_numbers_keep_their_significant_digits(number, text):
    assert significant(number) == text


def test_decimals_bound_the_width():
    assert significant(0.000123, decimals=3) == "0.000"


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.24, "4.2s"), (59.96, "1m00s"), (187, "3m07s"), (7500, "2h05m"), (math.nan, "nan")]
)
def test_durations_read_as_clocks_do(seconds, text):
    assert duration(seconds) == text


def test_what_was_not_measured_is_a_dash():
    assert percent(None) == points(None) == "-"
    assert percent(0.9861) == "98.6%"
    assert points(-0.0042) == "-0.4"
